import pytest

from retrieval.language import language_of, sentences


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Where is my refund?", "en"),
        ("我的退款呢？", "zh"),
        ("我的 Visa 卡被拒了", "zh"),  # 6 Han of 10 letters
        ("I paid at 海底捞 in Shanghai yesterday", "en"),  # 3 Han of 30 letters
        ("退abcd", "zh"),  # exactly a fifth
        ("退abcde", "en"),  # just under a fifth
        ("123 €", "en"),
        ("", "en"),
    ],
)
def test_a_text_is_chinese_from_a_fifth_of_han_letters_on(text: str, language: str) -> None:
    assert language_of(text) == language


def test_a_full_stop_ends_a_sentence_only_before_white_space() -> None:
    assert sentences("It costs 1.5%. Open Me.Help now! Why? Because") == [
        "It costs 1.5%.",
        "Open Me.Help now!",
        "Why?",
        "Because",
    ]


def test_chinese_sentences_need_no_space_and_keep_their_closing_quote() -> None:
    assert sentences("状态变为“已完成。”可以申请！多久？") == ["状态变为“已完成。”", "可以申请！", "多久？"]


def test_newlines_end_sentences_and_list_markers_and_blank_lines_are_dropped() -> None:
    assert sentences("- One\n* Two.\n\n3. Three\n• Four") == ["One", "Two.", "Three", "Four"]


def test_a_number_at_the_start_of_a_line_is_no_list_marker_without_its_dot() -> None:
    assert sentences("180 days is the limit") == ["180 days is the limit"]


def test_no_character_of_the_text_is_lost() -> None:
    text = "First, 1.5% of it... then (see Me > Help). 第二，“好。”可以？Yes!! a.b.c\nlast"
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


def test_a_full_stop_before_a_closing_bracket_or_quote_ends_the_sentence() -> None:
    assert sentences('(See below.) Then pay. She said "no." Then left.') == [
        "(See below.)",
        "Then pay.",
        'She said "no."',
        "Then left.",
    ]
