"""What wants an article: real transcripts in a real database, grouped by a real encoder."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from assistant.state import State, Transcript
from finetune import misses as module
from finetune.misses import misses

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
NUMBERS = count()


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(f"sqlite:///{tmp_path}/state.db")
    yield state
    state.close()


def ask(state: State, question: str, customer: str | None = None, decision: str | None = "miss", **more: Any) -> None:
    """Record a question and the answer to it."""
    said = ({"role": "user", "content": question}, {"role": "assistant", "content": "I do not know."})
    fields: dict[str, Any] = {
        **{"id": f"chatcmpl-{next(NUMBERS)}", "at": NOON, "tenant": "shop", "customer": customer},
        **{"conversation": None, "lang": "en", "arm": "assistant", "route": "adapter", "reason": None, "release": "r1"},
        **{"messages": said, "made": {"decision": decision, "experiment": None}},
    }
    state.record(Transcript(**fields | more))


def test_what_no_passage_answered_is_listed_by_how_many_customers_asked(state: State, keywords) -> None:
    for customer in ("anna", "bert", "carl"):
        ask(state, f"My card does not fit, says {customer}", customer)
    for customer in ("anna", "bert"):
        ask(state, f"A fee for {customer} in January, what for?", customer)
    ask(state, "When is the refund?", "anna", decision="hit")
    ask(state, "May I have a refund?", "anna", decision="ambiguous")
    ask(state, "I want a person", "anna", decision=None, route="handoff")
    found = misses(state, NOON, keywords)
    assert [topic.count for topic in found] == [3, 2]
    assert "card" in found[0].label and "fee" in found[1].label


def test_a_customer_who_asks_again_is_one_customer(state: State, keywords) -> None:
    for _ in range(5):
        ask(state, "Which fee do you charge?", "anna")
    ask(state, "Which card do you take?", "anna")
    ask(state, "Which card do you take?", "bert")
    assert [(topic.examples, topic.count) for topic in misses(state, NOON, keywords)] == [
        (["Which card do you take?"], 2),
        (["Which fee do you charge?"], 1),
    ]


def test_nameless_customers_are_told_apart_by_conversation(state: State, keywords) -> None:
    for conversation in ("one", "one", "two", None):
        ask(state, "Which fee do you charge?", conversation=conversation)
    assert [topic.count for topic in misses(state, NOON, keywords)] == [3]


def test_near_duplicates_are_counted_and_shown_once(state: State, keywords) -> None:
    for number, text in enumerate(
        ("Can I pay by card abroad?", "can i pay by card abroad", "Can I pay by card abroad!!")
    ):
        ask(state, text, f"c{number}")
    ask(state, "can i pay by card abroad", "c3")
    (topic,) = misses(state, NOON, keywords)
    assert (topic.count, topic.examples) == (4, ["can i pay by card abroad"])


def test_languages_stand_apart(state: State, keywords) -> None:
    ask(state, "Which fee do you charge?", "anna")
    ask(state, "手续费是多少？", "bert")
    ask(state, "为什么要收手续费？我没有用过", "carl")
    found = misses(state, NOON, keywords)
    assert {tuple(topic.examples) for topic in found} >= {("Which fee do you charge?",)}
    assert sum(topic.count for topic in found) == 3


def test_evaluations_are_no_customers_but_experiments_are(state: State, keywords) -> None:
    ask(state, "Which fee do you charge?", arm="assistant:rag")
    assert misses(state, NOON, keywords) == []
    made = {"decision": "miss", "experiment": {"name": "tone", "arm": "b"}}
    ask(state, "Which fee do you charge?", arm="assistant:rag", made=made)
    assert [topic.count for topic in misses(state, NOON, keywords)] == [1]


def test_only_what_was_asked_since_counts(state: State, keywords) -> None:
    ask(state, "Which fee do you charge?", at=NOON - timedelta(seconds=1))
    ask(state, "Which card do you take?", at=NOON)
    assert [topic.examples for topic in misses(state, NOON, keywords)] == [["Which card do you take?"]]


def test_a_card_number_that_was_recorded_is_not_shown(state: State, keywords) -> None:
    ask(state, "Why was my card 4111 1111 1111 1111 declined?")
    (topic,) = misses(state, NOON, keywords)
    assert topic.examples == ["Why was my card <CARD_1> declined?"]
    assert "4111" not in topic.label


def test_five_examples_the_most_asked_first_and_at_most_so_many_topics(state: State, keywords) -> None:
    things = ("lost", "stretched", "yellow", "melted", "unreadable", "bent", "scratched")
    for number, thing in enumerate(things):
        for customer in range(number + 1):
            ask(state, f"{thing.upper()} {thing}: card", f"{customer}")
    ask(state, "Which fee do you charge?", "anna")
    (topic,) = misses(state, NOON, keywords, most=1)
    assert topic.count == 7
    assert topic.examples == [f"{thing.upper()} {thing}: card" for thing in reversed(things[2:])]


def test_of_too_many_questions_a_sample_is_kept_whose_counts_are_whole(
    state: State, keywords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_QUESTIONS", 3)
    things = ("refund", "fee", "card", "cooking", "weather", "football", "gardening", "chess", "jazz", "surfing")
    for customer in ("anna", "bert"):
        for thing in things:
            ask(state, f"{thing} {thing}", customer)
    found = misses(state, NOON, keywords)
    assert sum(len(topic.examples) for topic in found) == 3
    assert {topic.count for topic in found} == {2}
    assert misses(state, NOON, keywords) == found


def test_nothing_was_missed(state: State, keywords) -> None:
    assert misses(state, NOON, keywords) == []


def test_the_real_encoder_puts_what_means_the_same_together(state: State, encoder) -> None:
    crypto = (
        "Can I buy bitcoin here?",
        "do you sell any cryptocurrency",
        "How do I purchase ethereum here?",
    )
    tax = ("Where is my tax certificate?", "I need the annual tax statement", "Which form do I give the tax office?")
    for number, question in enumerate((*crypto, *tax)):
        ask(state, question, f"c{number}")
    ask(state, "我可以开通少年账户吗？", "c9")
    found = misses(state, NOON, encoder)
    assert {frozenset(topic.examples) for topic in found} == {
        frozenset(crypto),
        frozenset(tax),
        frozenset(["我可以开通少年账户吗？"]),
    }
    assert [topic.count for topic in found] == [3, 3, 1]
