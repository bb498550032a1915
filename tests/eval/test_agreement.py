from typing import Literal

import pytest

from eval.agreement import Agreement, Vote, agreement, position_bias

ARMS = {"a": "rag", "b": "rag+lora"}


def votes(**judges: str) -> list[Vote]:
    """A letter for each item: `a` or `b` for an arm, `=` for a tie, a space for no vote; `rag` always stands left."""
    sides: dict[str, Literal["left", "right", "tie"]] = {"a": "left", "b": "right", "=": "tie"}
    return [
        Vote(judge, str(item), sides[letter], ARMS["a"], ARMS["b"])
        for judge, letters in judges.items()
        for item, letter in enumerate(letters)
        if letter != " "
    ]


def test_judges_who_always_agree_have_an_alpha_of_one() -> None:
    assert agreement(votes(x="abab=", y="abab=")) == Agreement(1.0, 1.0, 1.0, 1.0, 1.0, 2, 5)


def test_the_order_that_answers_were_shown_in_does_not_matter() -> None:
    one = Vote("x", "1", "left", "rag", "lora")
    other = Vote("y", "1", "right", "lora", "rag")
    result = agreement([one, other])
    assert result is not None and result.raw == 1.0


def test_alpha_and_kappa_are_those_of_the_textbook() -> None:
    """Ten items, six alike, the votes 14 a and 6 b: alpha 1 - 19 · 8 / (2 · 14 · 6), kappa (.6 - .56) / .44."""
    result = agreement(votes(x="abbaaaaaaa", y="bbabbaaaaa"))
    assert result is not None
    assert result.alpha == pytest.approx(1 - 19 * 8 / (2 * 14 * 6)) and result.raw == 0.6
    assert result.kappa == pytest.approx(0.04 / 0.44)
    assert result.low is not None and result.high is not None and result.low < result.alpha < result.high


def test_pairs_of_three_judges_are_averaged_over_items() -> None:
    """Item 1: all alike. Item 2: one pair of three alike. Item 3 has one vote only and counts nowhere."""
    result = agreement(votes(x="aaa", y="aa ", z="ab "))
    assert result is not None
    assert result.raw == pytest.approx((1 + 1 / 3) / 2)
    assert (result.judges, result.items, result.kappa) == (3, 2, None)


def test_votes_that_are_all_alike_leave_alpha_open() -> None:
    result = agreement(votes(x="aaa", y="aaa"))
    assert result == Agreement(None, None, None, 1.0, None, 2, 3)


def test_without_an_item_that_two_judged_there_is_no_agreement() -> None:
    assert agreement([]) is None
    assert agreement(votes(x="a ", y=" b")) is None


def test_a_judge_who_turns_with_the_order_has_voted_a_tie() -> None:
    both_orders = [Vote("x", "1", "left", "rag", "lora"), Vote("x", "1", "left", "lora", "rag")]
    result = agreement([*both_orders, Vote("y", "1", "tie", "rag", "lora")])
    assert result is not None and (result.raw, result.judges) == (1.0, 2)


def test_the_same_votes_give_the_same_interval() -> None:
    judged = votes(x="abbaaaaaaa", y="bbabbaaaaa")
    assert agreement(judged) == agreement(judged)


def test_a_judge_who_always_prefers_the_first_answer_is_found() -> None:
    """Ten of ten: twice one in 1,024; ties do not count."""
    result = position_bias(votes(x="aaaaaaaaaa==="))
    assert result is not None
    assert (result.first.mean, result.first.n) == (1.0, 10) and result.p == pytest.approx(2 / 1024)
    assert result.first.low == pytest.approx(10 / 13.8415, abs=1e-4)


def test_a_judge_who_looks_at_the_answers_has_no_side() -> None:
    result = position_bias(votes(x="abababab"))
    assert result is not None and (result.first.mean, result.p) == (0.5, 1.0)
    assert position_bias(votes(x="==")) is None
