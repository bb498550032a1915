import pytest

from eval.answers import Answer
from eval.cases import Case
from eval.metrics import Score
from eval.scorers import facts_present, no_invented_figures
from eval.scorers.facts import facts, invented_figures, normalised


def case(**fields: object) -> Case:
    return Case.model_validate({"query": "Why?", **fields})


def answer(text: str) -> Answer:
    return Answer("1", "rag", text, "grounded")


@pytest.mark.parametrize(
    ("fact", "text", "holds"),
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
        ("Open Dispute", "Reopen disputes", False),
        ("open dispute", "An open\ndispute is needed.", True),
        ("Tuesday", "On Tuesdays at 2:00.", True),  # a plural holds the word
        ("Visa", "支持Visa卡。", True),
        ("D05", "错误码D05。", True),
        ("取消订阅", "请点取消订阅按钮", True),
    ],
)
def test_a_fact_is_held_as_a_whole_number_or_text(fact: str, text: str, holds: bool) -> None:
    assert facts_present(case(facts=[fact]), text) is holds


@pytest.mark.parametrize(
    ("fact", "text", "holds"),
    [
        ("180天", "一百八十天内可以退款。", True),
        ("180天", "Within 180 days.", True),
        ("180 days", "一百八十天内可以退款。", True),
        ("180 days", "Within 180 business days.", False),
        ("180 days", "一千一百八十天", False),
        ("1,000", "不超过一千元。", True),
        ("CNY 1,000", "不超过一千元。", True),
        ("CNY 1,000", "不超过一千欧元。", False),
        ("3%", "手续费是百分之三。", True),
        ("3%", "手续费是百分之三十。", False),
        ("9 March", "It closes on March 9.", True),
        ("9 March", "3月9日关闭。", True),
        ("9 March", "It closes on 9 March 2026.", True),
        ("9 March 2026", "It closes on 9 March.", False),
        ("9 March", "It closes on 19 March.", False),
        ("15:00", "It closes at 3 pm.", True),
        ("15:00", "下午3点截止。", True),
        ("15:00", "It closes at 3 am.", False),
        ("8", "输错八次后锁定。", True),
        ("8", "It opens at 8 pm.", True),
        ("480", "It opens at 8:00.", False),  # minutes since midnight are no fact
        ("within 180 days", "一百八十天内", False),  # more than a figure is looked for word by word
    ],
)
def test_a_fact_that_is_a_figure_may_be_written_in_any_way(fact: str, text: str, holds: bool) -> None:
    assert facts_present(case(facts=[fact]), text) is holds
    assert facts_present(case(forbidden=[fact]), text) is not holds


@pytest.mark.parametrize(
    ("fact", "text"),
    [
        ("old", "The payout is on hold."),
        ("old", "The payout is in the gold account."),
        ("never", "You can nevertheless get it."),
        ("half", "We pay on your behalf."),
    ],
)
def test_a_word_is_not_found_inside_another(fact: str, text: str) -> None:
    """White space was removed first, and `old` was found in `on hold`."""
    assert facts_present(case(facts=[fact]), text) is False


def test_every_fact_must_be_held_and_nothing_forbidden() -> None:
    both = case(facts=["90 days", "2 EUR"], forbidden=["45 days"])
    assert facts_present(both, "90 days and 2 EUR") is True
    assert facts_present(both, "90 days") is False
    assert facts_present(both, "90 days and 2 EUR, not 45 days") is False


def test_the_evidence_says_what_was_found_and_what_not() -> None:
    asked = case(facts=["180 days", "23:59"], forbidden=["90 days"])
    assert facts(asked, answer("Within 180 days, until 23:59.")) == Score(1, 'found "180 days", "23:59"')
    assert facts(asked, answer("一百八十天内")) == Score(0, 'found "180 days"; missing "23:59"')
    wrong = Score(0, 'missing "180 days", "23:59"; but also says "90 days"')
    assert facts(asked, answer("九十天内")) == wrong


def test_a_planted_wrong_number_is_caught() -> None:
    assert facts(case(facts=["180 days"]), answer("Within 18 days.")) == Score(0, 'missing "180 days"')


def test_a_citation_marker_is_no_figure() -> None:
    assert facts_present(case(facts=["2 EUR"]), "It costs [1] 2 EUR") is True
    assert no_invented_figures(case(answerable=False), "I do not know. [1]") is True


def test_facts_are_not_asked_where_there_are_none() -> None:
    assert facts_present(case(), "anything") is None
    assert facts_present(case(facts=["x"], answerable=False), "x") is None
    assert facts_present(case(facts=["x"], answerable=None), "x") is True
    assert no_invented_figures(case(answerable=None), "60") is None
    assert facts(case(), answer("anything")) == Score(None)


def test_normalised_text_has_half_width_lower_case_letters_and_white_space_between_words_only() -> None:
    assert normalised("Ｆｅｅ： １，０００ EUR") == "fee:1000eur"
    assert normalised("10, 200  open\n dispute 争议 ") == "10,|200open dispute争议"


def test_without_an_article_no_figure_may_be_new() -> None:
    asked = case(query="Is it 30 days?", reference="Call 24 hours a day.", answerable=False)
    assert invented_figures(asked, answer("Not 30 days; call us, 24 hours.")) == Score(1)
    assert invented_figures(asked, answer("It is 60 days.")) == Score(0, 'made up "60"')
    assert invented_figures(case(), answer("60")) == Score(None)
