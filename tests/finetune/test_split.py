import random
from datetime import UTC, datetime

import pytest

from assistant.prompt import Message
from finetune.cleaning.duplicates import groups
from finetune.cleaning.split import HeldOut, LeakError, check_leaks, leaks, split, without_twins
from finetune.turns import Turn
from retrieval.errors import SupportError

WORDS = (
    "refund fee card limit invoice payout login password statement dispute bank currency webhook sandbox outage "
    "transfer balance euro tax freeze device address signature retry quarter appeal upload withdraw merchant shop gift"
).split()


def turn(question: str, answer: str, place: str, day: int | None = None) -> Turn:
    at = datetime(2026, 10, day, tzinfo=UTC) if day else None
    return Turn((Message("user", question),), Message("assistant", answer), place, at)


def drawn(count: int = 300) -> list[Turn]:
    chance = random.Random(7)
    return [turn(" ".join(chance.choices(WORDS, k=6)), f"answer {i}", f"a:{i}") for i in range(count)]


FOUR = [
    turn("How long does a refund take?", "Five days.", "a:1", 1),
    turn("Where do I find my invoices?", "Under Me.", "a:2", 2),
    turn("如何修改登录密码？", "在“我的”里修改。", "a:3", 3),
    turn("Can I pay in euros with you?", "Yes.", "a:4", 4),
]


def test_the_newest_questions_are_validated_on() -> None:
    parts = split(FOUR, groups(FOUR), 0.5, most=10, seed=7)
    assert [each.place for each in parts.training] == ["a:1", "a:2"]
    assert [each.place for each in parts.validation] == ["a:3", "a:4"]


def test_a_group_is_as_old_as_its_oldest_turn() -> None:
    turns = [*FOUR, turn("how long does a refund take", "A week.", "a:5", 5)]
    assert [each.place for each in split(turns, groups(turns), 0.2, 10, 7).validation] == ["a:4"]


def test_turns_of_one_group_one_conversation_or_one_answer_stay_together() -> None:
    turns = [*FOUR[:3], turn("Can I pay in euros with you?", "Five days.", "a:4", 4)]
    assert [each.place for each in split(turns, [0, 1, 2, 3], 0.25, 10, 7).validation] == ["a:3"]
    turns = [*FOUR[:3], turn("Can I pay in euros with you?", "Yes.", "a:1", 4)]
    assert [each.place for each in split(turns, [0, 1, 2, 3], 0.25, 10, 7).validation] == ["a:3"]
    assert [each.place for each in split(FOUR, [0, 1, 2, 0], 0.25, 10, 7).validation] == ["a:3"]


def test_without_times_the_seed_decides() -> None:
    turns = drawn()
    one, again, other = (split(turns, groups(turns), 0.1, 64, seed) for seed in (7, 7, 8))
    assert one == again != other


def test_both_parts_are_all_turns_and_no_more_than_asked_for() -> None:
    turns = drawn()
    for share, most in ((0.1, 64), (0.5, 20), (0.0, 64), (1.0, 1000)):
        parts = split(turns, groups(turns), share, most, 7)
        assert sorted(each.place for each in parts.training + parts.validation) == sorted(each.place for each in turns)
        assert len(parts.validation) <= min(most, share * len(turns))
        assert parts.training
    assert split([], [], 0.5, 10, 7).training == []


def test_the_order_of_turns_does_not_change_the_split() -> None:
    turns = drawn()
    shuffled = random.Random(1).sample(turns, len(turns))
    one, other = (split(each, groups(each), 0.1, 64, 7) for each in (turns, shuffled))
    assert {each.place for each in one.validation} == {each.place for each in other.validation} != set()


def test_a_split_by_groups_never_leaks() -> None:
    turns = drawn()
    parts = split(turns, groups(turns), 0.2, 100, 7)
    assert parts.validation
    check_leaks(parts.training, [HeldOut.turn(each) for each in parts.validation])


@pytest.mark.parametrize(
    ("logged", "case"),
    [
        ("hi, how long does a refund to my card take", "How long does a refnud to my card take?"),
        ("商家同意退款了，多久能退到银行卡？", "商家同意退款了，多久能退到銀行卡"),
    ],
)
def test_a_twin_of_a_case_fails_the_run_and_is_named(logged: str, case: str) -> None:
    training = [*FOUR[1:], turn(logged, "Five days.", "logs.jsonl:12")]
    with pytest.raises(LeakError, match=r"logs\.jsonl:12 is \d\.\d\d like refund/en/0 .*take one of the two out"):
        check_leaks(training, [HeldOut.case("refund/en/0", case)])
    assert issubclass(LeakError, SupportError)


def test_an_answer_may_be_known_for_a_case_but_not_for_validation() -> None:
    training = [turn("Where is my money?", "Five days.", "a:1")]
    check_leaks(training, [HeldOut.case("refund/en/0", "How long does a refund take?")])
    held = HeldOut.turn(turn("How long does a refund take?", "Five days!", "a:9"))
    assert [(leak.place, leak.held_out, leak.similarity) for leak in leaks(training, [held])] == [("a:1", "a:9", 1.0)]


def test_who_is_only_a_twins_twin_does_not_leak() -> None:
    held = HeldOut.case("c", "one two three four five six")
    near, far = "one two three four five nine", "zero three four five nine eleven"
    found = leaks([turn(near, "A.", "near"), turn(far, "B.", "far")], [held])
    assert [leak.place for leak in found] == ["near"]


def test_turns_without_twins_pass_the_check_and_lose_the_whole_conversation() -> None:
    case = HeldOut.case("c", "how long does a refund take")
    turns = [*FOUR, turn("Thanks, can I also pay by cheque?", "No.", "a:1", 5)]
    kept = without_twins(turns, [case])
    assert [each.place for each in kept] == ["a:2", "a:3", "a:4"]
    check_leaks(kept, [case])
    assert without_twins(kept, [case]) == kept
