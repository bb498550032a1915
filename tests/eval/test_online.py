import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assistant.experiment import Experiment, Stop, assign
from assistant.state import Recorded, State, Transcript
from eval.online import LEAST_UNITS, Online, broken, guard, online

START = datetime(2026, 11, 25, tzinfo=UTC)
LATER = START + timedelta(days=14)
EXPERIMENT = Experiment.model_validate(
    {
        "name": "lora",
        "start": START,
        "end": LATER,
        "salt": "1",
        "arms": {"rag": {"model": "assistant:rag", "share": 0.5}, "lora": {"model": "assistant:lora", "share": 0.5}},
        "guardrails": {
            "thumbs_down": {"most": 0.3},
            "handoff": {"most": 0.3},
            "failed": {"most": 0.05},
            "total_ms": {"most": 1000},
        },
    }
)
ONE = Recorded(
    id="r-0",
    at=START + timedelta(hours=1),
    tenant="shop",
    customer=None,
    conversation=None,
    route="grounded",
    thumb=None,
    status="answered",
    engine_failed=False,
    first_ms=100.0,
    total_ms=500.0,
    experiment="lora",
    arm="rag",
    unit="u",
    opening="o",
)
STOP = Stop(
    experiment="lora", arm="lora", at=START, guardrail="handoff", mean=0.5, low=0.4, most=0.3, units=LEAST_UNITS
)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(f"sqlite:///{tmp_path}/state.db")
    yield state
    state.close()


def request(
    state: State, number: int, customer: str | None, hours: float, arm: str | None = "rag", **made: Any
) -> None:
    """A request of a customer so many hours after the start; each conversation has its own id unless one is given."""
    thumb, conversation = made.pop("thumb", None), made.pop("conversation", f"talk-{number}")
    route, opening = made.pop("route", "grounded"), made.pop("opening", f"opening-{number}")
    assigned = {"name": "lora", "arm": arm, "unit": customer or conversation or opening, "opening": opening}
    state.record(
        Transcript(
            id=f"r-{number}",
            at=START + timedelta(hours=hours),
            tenant="shop",
            customer=customer,
            conversation=conversation,
            lang="en",
            arm="assistant",
            route=route,
            reason=None,
            release="r1",
            messages=({"role": "user", "content": "hi"},),
            made={"status": "answered", "ms": {"first": 100.0, "total": 500.0}, "experiment": assigned} | made,
        )
    )
    if thumb:
        state.feedback(f"r-{number}", thumb, None, None)


def figures(found: Online, arm: str = "rag") -> dict[str, tuple[float, int] | None]:
    """Means with the units they are over."""
    (shown,) = (each for each in found.arms if each.name == arm)
    return {name: interval and (round(interval.mean, 3), interval.n) for name, interval in shown.figures.items()}


# What the arms show


def test_the_figures_of_four_customers(state: State) -> None:
    request(state, 1, "helped", 1, thumb="up")
    request(state, 2, "handed over", 1, route="handoff")
    request(state, 3, "annoyed", 1, thumb="down")
    request(state, 4, "back the next day", 1)
    request(state, 5, "back the next day", 25)
    shown = figures(online(state, EXPERIMENT, LATER))
    assert shown == {
        "resolution": (0.375, 4),  # 1, 0, 0, and one of two conversations
        "thumbs_up": (0.5, 2),
        "thumbs_down": (0.5, 2),
        "handoff": (0.25, 4),
        "repeat_contact": (0.125, 4),
        "failed": (0.0, 4),
        "total_ms": (500.0, 4),
        "first_ms": (100.0, 4),
    }


def test_a_customer_who_asks_much_is_one_observation(state: State) -> None:
    for number in range(99):
        request(state, number, "busy", 1, route="handoff")
    request(state, 99, "other", 1)
    found = online(state, EXPERIMENT, LATER)
    assert figures(found)["handoff"] == (0.5, 2)
    assert (found.arms[0].units, found.arms[0].conversations, found.arms[0].requests) == (2, 100, 100)


def test_who_is_back_after_72_hours_is_no_repeat_contact_and_who_still_may_be_is_not_judged(state: State) -> None:
    request(state, 1, "early", 0)
    request(state, 2, "early", 73)
    request(state, 3, "other", 0)
    found = online(state, EXPERIMENT, START + timedelta(hours=80))
    assert (figures(found)["repeat_contact"], figures(found)["resolution"]) == ((0.0, 2), (1.0, 2))
    assert found.young == 1


def test_turns_of_one_conversation_are_no_repeat_contact(state: State) -> None:
    for number, customer in enumerate(("a", "a", "b", "b")):
        request(state, number, customer, number, conversation=f"talk-{customer}")
    found = online(state, EXPERIMENT, LATER)
    assert (found.arms[0].conversations, figures(found)["repeat_contact"]) == (2, (0.0, 2))


def test_strangers_who_open_alike_after_half_an_hour_are_two_conversations(state: State) -> None:
    """All who opened with "hi" were one conversation, however many months apart."""
    for number, hours in enumerate((0, 0.25, 0.5, 1.0, 30)):
        request(state, number, None, hours, conversation=None, opening="hi")
    found = online(state, EXPERIMENT, LATER)
    assert (found.arms[0].conversations, found.arms[0].requests) == (3, 5)


def test_a_conversation_with_an_id_goes_on_after_any_pause(state: State) -> None:
    request(state, 1, None, 0, conversation="x")
    request(state, 2, None, 30, conversation="x")
    assert online(state, EXPERIMENT, LATER).arms[0].conversations == 1


def test_a_customer_who_asks_the_same_again_after_a_pause_is_a_repeat_contact(state: State) -> None:
    for number, hours in enumerate((0, 0.25, 5)):
        request(state, number, "a", hours, conversation=None, opening="where is my refund")
    request(state, 9, "b", 1)
    found = online(state, EXPERIMENT, LATER)
    assert (found.arms[0].conversations, figures(found)["repeat_contact"]) == (3, (0.25, 2))  # a half, and none


def test_who_signs_in_during_a_conversation_is_one_customer_and_mixed_if_the_arm_changed(state: State) -> None:
    request(state, 1, None, 0, conversation="x")
    request(state, 2, "a", 0.1, conversation="x")
    request(state, 3, "a", 1, conversation="y")
    request(state, 4, None, 0, conversation="z")
    request(state, 5, "b", 0.1, "lora", conversation="z")
    request(state, 6, "c", 1)
    found = online(state, EXPERIMENT, LATER)
    assert (found.arms[0].conversations, found.arms[0].units, found.mixed) == (3, 2, 1)
    assert figures(found)["repeat_contact"] == (0.25, 2)


def test_what_failed_or_had_no_engine_is_counted_and_not_timed(state: State) -> None:
    request(state, 1, "a", 1, status="failed", ms={"first": 0.0, "total": 9_000.0})
    request(state, 2, "b", 1, degraded=["engine"])
    request(state, 3, "c", 1)
    shown = figures(online(state, EXPERIMENT, LATER))
    assert (shown["failed"], shown["total_ms"]) == ((0.667, 3), (500.0, 2))


def test_a_conversation_that_more_than_one_way_answered_is_left_out_and_counted(state: State) -> None:
    request(state, 1, "before the start", -1, arm=None, conversation="x")
    request(state, 2, "before the start", 1, conversation="x")
    request(state, 3, "stopped", 1, arm="lora", conversation="y")
    request(state, 4, "stopped", 2, arm=None, conversation="y")
    request(state, 5, "asked by name", 1, conversation="z")
    request(state, 6, "asked by name", 1, conversation="z", experiment=None)
    request(state, 7, "whole", 1)
    request(state, 8, "stopped before", 1, arm=None)
    found = online(state, EXPERIMENT, LATER)
    assert (found.mixed, found.split) == (3, {"rag": 1, "lora": 0})


def test_after_a_stop_neither_split_nor_differences_go_on(state: State) -> None:
    """Once an arm is stopped the other goes on alone: the split looked broken, and no verdict was given."""
    for number in range(60):
        request(state, number, f"c{number}", number / 10, arm=("rag", "lora")[number % 2])
    for number in range(60, 200):
        request(state, number, f"c{number}", number / 10, arm="rag")
    assert online(state, EXPERIMENT, LATER).alarm
    stopped = online(state, EXPERIMENT, LATER, [STOP.model_copy(update={"at": START + timedelta(hours=5.95)})])
    assert stopped.split == {"rag": 30, "lora": 30} and not stopped.alarm
    assert {found.interval.n for found in stopped.differences if found.metric == "handoff"} == {60}


def test_a_difference_is_decided_once_its_interval_excludes_zero_and_means_what_is_better(state: State) -> None:
    for number in range(400):
        arm = ("rag", "lora")[number % 2]
        slow = {"first": 100.0, "total": 500.0 + number % 7 + (300 if arm == "rag" else 0)}
        request(state, number, f"c{number}", 1, arm, route="handoff" if number % 5 == 0 else "grounded", ms=slow)
    found = online(state, EXPERIMENT, LATER)
    verdicts = {each.metric: each.verdict for each in found.differences}
    assert (verdicts["total_ms"], verdicts["handoff"], verdicts["thumbs_up"]) == ("better", "undecided", "undecided")
    text = found.as_text()
    assert "decided: better" in text and "not decided yet" in text and "not enough units" in text
    assert max(map(len, text.splitlines())) <= 100
    told = json.loads(json.dumps(found.as_dict()))
    assert [each["verdict"] for each in told["differences"] if each["metric"] == "total_ms"] == ["better"]


def test_the_holdout_is_shown_and_compared_to_nothing(state: State) -> None:
    request(state, 1, "a", 1)
    request(state, 2, "b", 1, arm="lora")
    for number in range(3, 6):
        request(state, number, f"c{number}", 1, arm="holdout", route="handoff")
    found = online(state, EXPERIMENT, LATER)
    assert found.holdout is not None and (found.holdout.units, found.holdout.model) == (3, "assistant")
    assert (found.split, {each.arm for each in found.differences}) == ({"rag": 1, "lora": 1}, {"lora"})
    header, units = (line.split() for line in found.as_text().splitlines()[2:4])
    assert (header, units) == (["rag", "lora", "holdout"], ["units", "1", "1", "3"])
    assert found.as_dict()["holdout"]["figures"]["handoff"]["mean"] == 1.0
    assert online(state, EXPERIMENT.model_copy(update={"name": "another"}), LATER).holdout is None


# The split


def test_an_arm_that_loses_a_fifth_of_its_requests_is_an_alarm_and_no_verdict(state: State) -> None:
    for number in range(2_000):
        arm = assign(EXPERIMENT, f"c{number}")
        if not (arm == "lora" and number % 5 == 0):
            request(state, number, f"c{number}", number / 100, arm, route="handoff" if arm == "lora" else "grounded")
    found = online(state, EXPERIMENT, LATER)
    assert found.alarm and found.split_p < 0.001
    assert "an ALARM: no verdict" in found.as_text() and "decided" not in found.as_text().replace("undecided", "")
    assert {each["verdict"] for each in found.as_dict()["differences"]} == {None}


def test_a_whole_split_is_no_alarm(state: State) -> None:
    for number in range(2_000):
        request(state, number, f"c{number}", number / 100, assign(EXPERIMENT, f"c{number}"))
    assert not online(state, EXPERIMENT, LATER).alarm


# The guardrails


def drawn(seed: int, bad: dict[str, float], units: int = 800) -> list[Recorded]:
    """Customers with one to three requests each; rates at the very bounds, but for those that `bad` gives `lora`."""
    chance = np.random.default_rng(seed)
    requests = []
    for unit in range(units):
        arm = ("rag", "lora")[int(chance.integers(2))]
        rates = {"down": 0.3, "handoff": 0.3, "failed": 0.05, "ms": 1000.0} | (bad if arm == "lora" else {})
        for _ in range(int(chance.integers(1, 4))):
            down, failed = chance.random() < rates["down"], chance.random() < rates["failed"]
            requests.append(
                replace(
                    ONE,
                    at=START + timedelta(minutes=len(requests)),
                    conversation=f"talk-{len(requests)}",
                    arm=arm,
                    unit=f"u{unit}",
                    customer=f"c{unit}",
                    route="handoff" if chance.random() < rates["handoff"] else "grounded",
                    thumb=("down" if down else "up") if chance.random() < 0.5 else None,
                    status="failed" if failed else "answered",
                    total_ms=float(chance.exponential(rates["ms"])),
                )
            )
    return requests


def test_looking_all_the_time_stops_no_arm_that_keeps_its_bounds() -> None:
    for seed in range(8):
        requests = drawn(seed, {}, units=500)
        for seen in range(100, len(requests), 100):
            assert broken(requests[:seen], EXPERIMENT, LATER) == []


@pytest.mark.parametrize(
    ("guardrail", "bad"),
    [
        ("thumbs_down", {"down": 0.8}),
        ("handoff", {"handoff": 0.7}),
        ("failed", {"failed": 0.5}),
        ("total_ms", {"ms": 3_000.0}),
    ],
)
def test_a_bad_arm_is_stopped_and_the_control_is_left_alone(guardrail: str, bad: dict[str, float]) -> None:
    (stop,) = broken(drawn(1, bad), EXPERIMENT, LATER)
    assert (stop.arm, stop.guardrail) == ("lora", guardrail)
    assert stop.low > stop.most and stop.at == LATER


def test_a_control_that_breaks_its_own_bound_is_stopped_too() -> None:
    strict = Experiment.model_validate(EXPERIMENT.model_dump() | {"guardrails": {"total_ms": {"most": 500}}})
    stops = broken(drawn(2, {}), strict, LATER)
    assert {stop.arm for stop in stops} == {"rag", "lora"}


def test_an_arm_of_few_customers_is_not_stopped(state: State) -> None:
    for number in range(LEAST_UNITS - 1):
        request(state, number, f"c{number}", 1, "lora", status="failed", route="handoff")
    assert guard(state, EXPERIMENT) == []
    request(state, LEAST_UNITS, "one more", 1, "lora", status="failed", route="handoff")
    assert [(stop.arm, stop.units) for stop in guard(state, EXPERIMENT)] == [("lora", LEAST_UNITS)]
