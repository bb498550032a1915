from concurrent.futures import ThreadPoolExecutor

import pytest

from retrieval.language import language_of, sentences, simplified


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


def test_traditional_characters_are_written_as_simplified_and_everything_else_stays() -> None:
    assert simplified("申請退費，Visa 卡 1.5%") == "申请退费，Visa 卡 1.5%"
    assert simplified("申请退费") == "申请退费"
    assert simplified("Straße ① ½ ＡＢ") == "Straße ① ½ ＡＢ"
    assert simplified("") == ""


def test_only_characters_are_converted_not_wordings() -> None:
    """A Taiwanese 軟體 stays 软体; OpenCC's t2s knows no 软件 for it."""
    assert simplified("軟體") == "软体"


def test_many_threads_convert_at_once() -> None:
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(simplified, ["手續費怎麼計算？"] * 500)) == {"手续费怎么计算？"}


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
