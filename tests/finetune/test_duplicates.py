import random
from datetime import UTC, datetime

import pytest

from assistant.prompt import Message
from finetune.cleaning.duplicates import asked, connected, distinct, groups, plain, shingles, similarity
from finetune.turns import Source, Turn

ANSWER = "A refund to a card takes 5 to 8 business days."


def turn(
    question: str, answer: str = ANSWER, place: str = "a:1", day: int | None = None, source: Source = "agent"
) -> Turn:
    at = datetime(2026, 10, day, tzinfo=UTC) if day else None
    return Turn((Message("user", question),), Message("assistant", answer), place, at, source=source)


def partition(turns: list[Turn]) -> set[frozenset[str]]:
    """The groups as sets of places."""
    found: dict[int, set[str]] = {}
    for each, group in zip(turns, groups(turns), strict=True):
        found.setdefault(group, set()).add(each.place)
    return {frozenset(places) for places in found.values()}


def test_texts_are_compared_without_case_width_script_and_punctuation() -> None:
    assert plain("ＶＩＳＡ card?!") == "visa card"
    assert plain("退款，要幾天？") == plain("退款 要几天") == "退款 要几天"


def test_shingles_are_three_letters_or_two_chinese_characters() -> None:
    assert shingles("card") == {"car", "ard"}
    assert shingles("退款几天") == {"退款", "款几", "几天"}
    assert shingles("visa 退款") == {"visa", "退款"}
    assert shingles("ok") == {"ok"}


def test_similarity_is_what_both_hold_over_what_either_holds() -> None:
    assert similarity("card", "card") == 1
    assert similarity("card", "care") == pytest.approx(1 / 3)  # of car, ard and are, both hold car
    assert similarity("退款几天", "退款几天到") == pytest.approx(3 / 4)
    assert similarity("", "") == 1
    assert similarity("card", "退款") == 0


def test_one_question_typed_twice_is_one_group_in_both_languages() -> None:
    turns = [
        turn("How long does a refund to my card take?", place="a:1"),
        turn("hi, how long does a refnud to my card take", "It takes 5 days.", "a:2"),
        turn("商家同意退款了，多久能退到银行卡？", "五天。", "a:3"),
        turn("你好，商家同意退款了，多久能退到銀行卡", "一周。", "a:4"),
        turn("Where do I change my password?", "Under Me.", "a:5"),
    ]
    assert groups(turns) == [0, 0, 1, 1, 2]


def test_one_canned_answer_to_different_questions_makes_no_group() -> None:
    assert groups([turn("Where is my money?"), turn("Can I pay by cheque?")]) == [0, 1]


def test_half_a_question_is_enough_where_the_answer_is_nearly_the_same() -> None:
    long = (
        "Open Me > Payments, choose the payment and tap Refund progress. A 12-digit code appears there at the Sent "
        "stage, with which your bank can find the money; it does so within two working days as a rule."
    )
    one, other = "My bank wants a refund reference", "Where is a refund reference shown?"
    assert 0.25 <= similarity(plain(one), plain(other)) < 0.5
    assert groups([turn(one, long), turn(other, long + " Bye.")]) == [0, 0]
    assert groups([turn(one, long), turn(other, "Nowhere.")]) == [0, 1]


def test_a_short_question_means_what_was_asked_before_it() -> None:
    said = tuple(Message(role, text) for role, text in [("user", "Refund?"), ("assistant", "Yes"), ("user", "When?")])
    assert asked(Turn(said, Message("assistant", ANSWER), "a:1")) == "refund when"
    assert asked(turn("How long does it take?")) == "how long does it take"


def test_the_order_of_turns_does_not_change_the_groups() -> None:
    chance = random.Random(7)
    words = "refund fee card limit invoice payout login password statement dispute bank currency".split()
    turns = [turn(" ".join(chance.choices(words, k=5)), str(i), f"a:{i}") for i in range(300)]
    shuffled = chance.sample(turns, len(turns))
    assert partition(turns) == partition(shuffled)
    assert len(partition(turns)) < 300
    assert {each.place for each in distinct(turns)} == {each.place for each in distinct(shuffled)}


def test_a_chain_of_pairs_is_one_component() -> None:
    assert connected(5, [(0, 1), (1, 2), (4, 3)]) == [0, 0, 0, 1, 1]
    assert connected(2, []) == [0, 1]
    assert groups([]) == connected(0, []) == []


def test_a_correction_is_kept_before_a_confirmed_answer_and_that_before_a_newer_agents() -> None:
    question = "How long does a refund take?"
    agent_new, agent_old = turn(question, "In 9 days.", "a:1", 9), turn(question, "In 7 days.", "a:2", 7)
    confirmed = turn(question, "In 6 days.", "a:3", 6, "confirmed")
    correction = turn(question, "In 5 days.", "a:4", 5, "correction")
    assert distinct([agent_old, agent_new]) == [agent_new]
    assert distinct([agent_new, confirmed, agent_old]) == [confirmed]
    assert distinct([agent_new, confirmed, correction, agent_old]) == [correction]


def test_questions_about_different_figures_are_not_duplicates() -> None:
    turns = [turn("What does a withdrawal of 200 EUR cost?", "2 EUR."), turn("What does a withdrawal of 500 EUR cost?")]
    assert distinct(turns) == turns
    assert distinct([turn("提现200元收多少手续费"), turn("提现500元收多少手续费")]) != []
    assert len(distinct([turn("提现200元收多少手续费"), turn("提现500元收多少手续费")])) == 2


def test_the_same_follow_up_in_another_conversation_is_not_a_duplicate() -> None:
    def follow_up(first: str) -> Turn:
        said = (Message("user", first), Message("assistant", "Yes."), Message("user", "And how long does that take?"))
        return Turn(said, Message("assistant", ANSWER), first)

    turns = [follow_up("Can I close my account?"), follow_up("Can you send me a new card?")]
    assert distinct(turns) == turns


def test_the_answer_after_a_tools_reply_is_not_a_duplicate_of_the_call() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "status", "arguments": "{}"}}
    ask = (Message("user", "Where is my refund?"),)
    calling = Turn(ask, Message("assistant", "", (call,)), "a:1")
    reply = (*ask, calling.answer, Message("tool", "ok", tool_call_id="1"))
    turns = [calling, Turn(reply, Message("assistant", "It was sent."), "a:1")]
    assert distinct(turns) == turns


def test_cleaning_what_is_clean_changes_nothing() -> None:
    chance = random.Random(7)
    words = "refund fee card limit invoice payout login password".split()
    turns = [turn(" ".join(chance.choices(words, k=4)), str(i), f"a:{i}") for i in range(200)]
    once = distinct(turns)
    assert 0 < len(once) < len(turns)
    assert distinct(once) == once
