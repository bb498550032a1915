import pytest

from eval.cases import Case
from eval.scorers import cites_relevant, facts_present, no_invented_figures, normalised, right_language, score


def case(**fields: object) -> Case:
    return Case.model_validate({"query": "Why?", **fields})


@pytest.mark.parametrize(
    ("fact", "answer", "holds"),
    [
        ("5 days", "It takes 5 days.", True),
        ("5 days", "It takes 15 days.", False),
        ("5 days", "It takes 1.5 days.", False),
        ("5 days", "It takes 5days.", True),
        ("5 days", "Within 5\ndays", True),
        ("180", "Within 180 days", True),
        ("180", "Within 1800 days", False),
        ("180", "It costs 180.50", False),
        ("180", "The limit is 180.", True),
        ("1,000", "It costs 1000 EUR", True),
        ("1000", "It costs 1,000 EUR", True),
        ("1,000,000", "It costs 1000000 EUR", True),
        ("180 天", "１８０天内", True),
        ("open dispute", "no Open Dispute", True),
        ("45 days", "Refunds are possible. 45 days is the limit.", True),
        ("5 days", "See step 2. 5 days later it arrives.", True),
        ("200", "It is one of 10, 200 and 500.", True),
        ("7 days", "For code D05 7 days.", True),
        ("2.5%", "The fee is 2.5 % of it.", True),
        ("2.5%", "The fee is 12.5%.", False),
    ],
)
def test_a_fact_is_held_as_a_whole_number_or_text(fact: str, answer: str, holds: bool) -> None:
    assert facts_present(case(facts=[fact]), answer) is holds


def test_every_fact_must_be_held_and_nothing_forbidden() -> None:
    both = case(facts=["90 days", "2 EUR"], forbidden=["45 days"])
    assert facts_present(both, "90 days and 2 EUR") is True
    assert facts_present(both, "90 days") is False
    assert facts_present(both, "90 days and 2 EUR, not 45 days") is False


def test_a_citation_marker_is_no_figure() -> None:
    assert facts_present(case(facts=["2 EUR"]), "It costs [1] 2 EUR") is True
    assert no_invented_figures(case(answerable=False), "I do not know. [1]") is True


def test_facts_are_not_asked_where_there_are_none() -> None:
    assert facts_present(case(), "anything") is None
    assert facts_present(case(facts=["x"], answerable=False), "x") is None


def test_normalised_text_has_half_width_lower_case_letters_and_no_white_space() -> None:
    assert normalised("Ｆｅｅ： １，０００ EUR") == "fee:1000eur"


def test_a_citation_must_lead_to_a_relevant_article() -> None:
    asked = case(relevant=["en/a.md", "en/b.md"])
    assert cites_relevant(asked, [{"path": "en/c.md"}, {"path": "en/b.md"}]) is True
    assert cites_relevant(asked, [{"path": "en/c.md"}]) is False
    assert cites_relevant(asked, []) is False
    assert cites_relevant(case(), []) is None


def test_without_an_article_no_figure_may_be_new() -> None:
    asked = case(query="Is it 30 days?", reference="Call 24 hours a day.", answerable=False)
    assert no_invented_figures(asked, "Not 30 days; call us, 24 hours.") is True
    assert no_invented_figures(asked, "It is 60 days.") is False
    assert no_invented_figures(case(), "60") is None


def test_the_answer_is_in_the_language_of_the_question() -> None:
    assert right_language(case(lang="zh"), "可以退款 [1]") is True
    assert right_language(case(lang="zh"), "You can") is False
    assert right_language(case(), "You can") is None


def test_all_scores_of_a_reply() -> None:
    reply = {
        "choices": [{"message": {"content": "Within 90 days. [1]"}}],
        "assistant": {"citations": [{"path": "a.md"}]},
    }
    assert score(case(facts=["90 days"], relevant=["a.md"], lang="en"), reply) == {
        "facts": True,
        "cited": True,
        "no invented figures": None,
        "right language": True,
    }
