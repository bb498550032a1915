import pytest

from assistant.citations import Citation, Citer, numbers, overlap, without_markers, words
from retrieval.index import Found
from retrieval.passages import Passage


def found(name: str, text: str, score: float = 0.9, title: str = "Title") -> Found:
    return Found(Passage(name, f"{name}.md", name, title, "", text, "en", 9, 70, "line 3"), score, 0.8, 0.1)


LIMIT = found("limit", "You can request a refund within 1,000 days. Weekends count.")
FEE = found("fee", "A withdrawal costs 2.5 EUR.")


def test_words_are_content_words_numbers_and_pairs_of_chinese_characters() -> None:
    assert words("The refund is 2.5 EUR") == {"refund", "2.5", "eur"}
    assert words("申请退款") == {"申请", "请退", "退款"}
    assert words("退") == {"退"}
    assert words("the of and") == frozenset()


def test_numbers_lose_thousands_separators_and_trailing_punctuation() -> None:
    assert numbers("1,000 days, until 23:59. Then 2.5% of 10.") == {"1000", "23:59", "2.5", "10"}


def test_overlap_is_the_share_of_the_sentences_words_in_the_passage() -> None:
    assert overlap("refund fee", "refund") == 0.5
    assert overlap("refund fee", "fee and refund") == 1.0
    assert overlap("the", "the") == 0.0


def test_a_sentence_with_a_figure_that_the_passage_lacks_overlaps_nowhere() -> None:
    assert overlap("refund within 45 days", "refund within 180 days") == 0.0


@pytest.mark.parametrize("figure", ["1,000", "1000"])
def test_a_supported_sentence_is_cited_with_and_without_thousands_separators(figure: str) -> None:
    citer = Citer([LIMIT])
    assert citer.cite(f"You can request a refund within {figure} days.") == 1
    assert citer.citations == [
        Citation(1, "limit.md", "Title", "You can request a refund within 1,000 days.", 0.9, 9, 70, "line 3"),
    ]


def test_full_width_figures_are_the_same_figures() -> None:
    assert numbers("１８０ 天") == {"180"}


@pytest.mark.parametrize(
    "sentence",
    [
        "You can request a refund within 999 days.",
        "Can you request a refund within 1,000 days?",
        "您可以在 1,000 天内申请退款吗？",
        "Sorry about the trouble this caused.",
        "",
        "\n",
    ],
)
def test_an_unsupported_sentence_or_a_question_is_not_cited(sentence: str) -> None:
    citer = Citer([LIMIT, FEE])
    assert citer.cite(sentence) is None
    assert citer.citations == []


def test_passages_are_numbered_in_the_order_in_which_they_are_cited() -> None:
    citer = Citer([LIMIT, FEE])
    assert citer.cite("A withdrawal costs 2.5 EUR.") == 1
    assert citer.cite("You can request a refund within 1,000 days.") == 2
    assert citer.cite("The withdrawal costs you 2.5 EUR.") == 1
    assert [(citation.n, citation.path) for citation in citer.citations] == [(1, "fee.md"), (2, "limit.md")]


def test_of_equal_passages_the_better_found_one_is_cited() -> None:
    first, second = found("first", "The fee is 2 EUR."), found("second", "The fee is 2 EUR.")
    citer = Citer([first, second])
    citer.cite("The fee is 2 EUR.")
    assert citer.citations[0].path == "first.md"


def test_without_passages_nothing_is_cited() -> None:
    assert Citer([]).cite("You can request a refund within 1,000 days.") is None


def test_markers_that_a_model_wrote_are_removed_with_the_space_before_them() -> None:
    assert without_markers("Yes [1]. No[12], [see] [ 1 ] a[b]") == "Yes. No, [see] [ 1 ] a[b]"
