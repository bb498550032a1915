"""One chat request with a real index; only the engine is scripted."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assistant.chat import ARMS, WITHHELD, Assistant, Outcome
from assistant.engine import Piece, Sampling, Usage
from assistant.policy import read_policy
from assistant.prompt import Message
from assistant.redaction import redact
from assistant.settings import read_settings
from assistant.tracing import Span
from retrieval.build import build
from retrieval.errors import EngineUnavailable
from retrieval.index import Index

ARTICLES = {
    "en/refund.md": "# Refunds\n\nYou can request a refund within 90 days.\n",
    "en/fee.md": "# Withdrawals\n\nThe fee is 2 EUR.\n",
    "zh/refund.md": "# 退款\n\n九十天内可以申请退款。周末也算在内。\n",
}


POLICY = read_policy()


class ScriptedEngine:
    """Says its lines, whatever it is asked, and keeps what it was asked; without lines it cannot be reached."""

    def __init__(self, *lines: str) -> None:
        self.lines = lines
        self.asked: list[tuple[str, list[Message]]] = []

    async def answer(
        self, model: str, messages: list[Message], sampling: Sampling, usage: Usage, whole: bool
    ) -> AsyncIterator[Piece]:
        self.asked.append((model, messages))
        if not self.lines:
            raise EngineUnavailable("nobody there")
        for line in self.lines:
            yield Piece(line)
        yield Piece(finish_reason="stop")


@pytest.fixture
def index(tmp_path: Path, keywords, gate_at) -> Index:
    """Three articles; a question is a hit from a cosine of 0.5 on."""
    for name, text in ARTICLES.items():
        (tmp_path / "knowledge" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "knowledge" / name).write_text(text, encoding="utf-8")
    built = build([tmp_path / "knowledge"], tmp_path / "indexes", keywords, redact)
    index = Index(tmp_path / "indexes" / built.id, keywords)
    index.gate = gate_at(0.5)
    return index


def ask(
    index: Index,
    engine: ScriptedEngine,
    *turns: str,
    arm: str = "assistant",
    languages: Sequence[str] = ("en",),
    **settings: Any,
) -> tuple[str, Outcome]:
    """The answer to the last of `turns`, which the customer and the assistant write in turn."""
    roles = ("user", "assistant")
    conversation = [Message(roles[i % 2], turn) for i, turn in enumerate(turns)]
    chosen = read_settings(passages=1, **settings)
    assistant = Assistant("r1", index, engine, "adapter-1", tuple(languages), POLICY, chosen)  # type: ignore[arg-type]
    outcome = Outcome()

    async def collect() -> str:
        pieces = assistant.answer(conversation, ARMS[arm], Sampling(50), outcome, Span(None, None))
        return "".join([piece.text async for piece in pieces])

    return asyncio.run(collect()), outcome


def test_an_english_hit_is_grounded_and_its_sentences_are_cited(index: Index) -> None:
    engine = ScriptedEngine("You can request a ref", "und within 90 days. Anything", " else?")
    text, outcome = ask(index, engine, "refund please")
    assert text == "You can request a refund within 90 days. [1] Anything else?"
    assert outcome.route == "grounded"
    assert [citation.path for citation in outcome.citations] == ["en/refund.md"]
    ((model, messages),) = engine.asked
    assert model == "adapter-1"
    assert "You can request a refund within 90 days." in messages[-1].content


def test_a_chinese_hit_is_quoted_when_the_base_writes_no_chinese(index: Index) -> None:
    engine = ScriptedEngine("never said")
    text, outcome = ask(index, engine, "怎么退款")
    assert text == "帮助中心的说明：\n九十天内可以申请退款。 [1]\n周末也算在内。 [1]"
    assert (outcome.route, engine.asked) == ("quoted", [])
    assert outcome.citations[0].path == "zh/refund.md"


def test_a_chinese_hit_is_grounded_when_the_base_writes_chinese(index: Index) -> None:
    engine = ScriptedEngine("九十天内可以申请退款。")
    text, outcome = ask(index, engine, "怎么退款", languages=("en", "zh"))
    assert (text, outcome.route) == ("九十天内可以申请退款。 [1]", "grounded")


def test_a_chinese_miss_is_handed_to_a_person(index: Index) -> None:
    engine = ScriptedEngine("never said")
    text, outcome = ask(index, engine, "你好吗")
    assert (text, outcome.route, engine.asked) == (POLICY.reply("handoff", "zh"), "handoff", [])
    assert outcome.citations == []


def test_an_english_miss_goes_to_the_adapter_without_passages(index: Index) -> None:
    engine = ScriptedEngine("You can request a refund within 90 days.")
    text, outcome = ask(index, engine, "Hello there, what is your favourite colour, and do you like long walks?")
    assert (text, outcome.route) == ("You can request a refund within 90 days.", "adapter")
    assert outcome.search is not None and not outcome.search.hit
    assert engine.asked[0][1][-1].content.startswith("Passages: none")


@pytest.mark.parametrize(
    ("arm", "model", "searches"),
    [
        ("assistant", "adapter-1", True),
        ("assistant:rag+lora", "adapter-1", True),
        ("assistant:rag", "base", True),
        ("assistant:lora", "adapter-1", False),
        ("assistant:base", "base", False),
    ],
)
def test_an_arm_decides_on_the_adapter_and_on_searching(index: Index, arm: str, model: str, searches: bool) -> None:
    engine = ScriptedEngine("Yes.")
    _, outcome = ask(index, engine, "refund please", arm=arm)
    assert engine.asked[0][0] == model
    assert (outcome.search is not None) is searches
    assert ("90 days" in engine.asked[0][1][-1].content) is searches
    assert outcome.route == ("grounded" if searches else "adapter")


def test_a_card_number_never_reaches_the_engine_or_the_search(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    queries: list[str] = []
    search = index.search
    monkeypatch.setattr(index, "search", lambda query, *rest: queries.append(str(query)) or search(query, *rest))
    engine = ScriptedEngine("Yes.")
    ask(index, engine, "card 4111 1111 1111 1111", "Which refund?", "refund to 4111-1111-1111-1111")
    said = " ".join([*queries, *(message.content for message in engine.asked[0][1])])
    assert "1111" not in said
    assert said.count("<CARD_1>") >= 2  # the same card in both turns, under one name


def test_a_short_follow_up_is_searched_for_together_with_the_question_before(index: Index) -> None:
    engine = ScriptedEngine("Yes.")
    _, outcome = ask(index, engine, "refund please", "Within 90 days.", "and why?")
    assert outcome.route == "grounded"


# What nobody answers without a passage, and what the assistant answers not at all.

WEATHER = "Hello there, what is your favourite colour, and do you like long walks?"


def test_a_stolen_card_goes_to_a_person_before_anything_is_searched_or_written(index: Index) -> None:
    engine = ScriptedEngine("never said")
    text, outcome = ask(index, engine, "Somebody stole my card!")
    assert (outcome.route, outcome.reason, outcome.search, engine.asked) == ("handoff", "stolen_card", None, [])
    assert text == POLICY.reply("handoff", "en", "stolen_card")


@pytest.mark.parametrize("route", ["clarify", "refuse", "handoff"])
def test_a_setting_decides_what_a_miss_gets(index: Index, route: Any) -> None:
    engine = ScriptedEngine("never said")
    text, outcome = ask(index, engine, WEATHER, on_miss=route)
    assert (text, outcome.route, engine.asked) == (POLICY.reply(route, "en"), route, [])


def test_fees_are_never_told_without_a_passage(index: Index) -> None:
    engine = ScriptedEngine("It costs 9 EUR.")
    question = "How much does it cost to send somebody a parcel to the moon from your beautiful city?"
    _, outcome = ask(index, engine, question)
    assert (outcome.route, outcome.reason, engine.asked) == ("handoff", "fees", [])
    _, outcome = ask(index, engine, question, on_sensitive_miss="adapter")
    assert (outcome.route, outcome.unsupported) == ("adapter", ["9 EUR"])


def test_a_question_whose_passages_may_not_answer_can_be_asked_back(index: Index, monkeypatch: Any) -> None:
    search = index.search
    unsure = lambda *asked: replace(search(*asked), decision="ambiguous")  # noqa: E731
    monkeypatch.setattr(index, "search", unsure)
    engine = ScriptedEngine("You can request a refund within 90 days.")
    assert ask(index, engine, "refund please")[1].route == "grounded"
    text, outcome = ask(index, engine, "refund please", on_ambiguous="clarify")
    assert (text, outcome.route) == (POLICY.reply("clarify", "en"), "clarify")


# Figures.


def test_a_figure_that_no_passage_and_no_customer_states_is_flagged(index: Index) -> None:
    engine = ScriptedEngine("You can request a refund within 90 days. You paid 20 EUR. It takes 7 days.")
    text, outcome = ask(index, engine, "I paid 20 EUR, refund please")
    assert outcome.unsupported == ["7 days"]
    assert text.endswith("It takes 7 days.")


def test_a_sentence_with_such_a_figure_can_be_withheld(index: Index) -> None:
    engine = ScriptedEngine("You can request a ref", "und within 90 days. It ta", "kes 7 days. Or 8 days. Bye.")
    text, outcome = ask(index, engine, "refund please", withhold_figures=True)
    assert text == f"You can request a refund within 90 days. [1] {WITHHELD['en']} Bye."
    assert outcome.unsupported == ["7 days", "8 days"]


# Parts that fail.


def test_when_retrieval_fails_the_adapter_answers_alone_and_says_so(index: Index, monkeypatch: Any) -> None:
    def broken(*asked: Any) -> None:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(index, "search", broken)
    engine = ScriptedEngine("Please tell me more.")
    text, outcome = ask(index, engine, "refund please", on_sensitive_miss="adapter")
    assert (text, outcome.route, outcome.degraded) == ("Please tell me more.", "adapter", ["retrieval"])


def test_a_search_that_takes_too_long_is_given_up(index: Index, monkeypatch: Any) -> None:
    search = index.search
    monkeypatch.setattr(index, "search", lambda *asked: time.sleep(0.5) or search(*asked))
    engine = ScriptedEngine("Please tell me more.")
    _, outcome = ask(index, engine, "refund please", search_s=0.05, on_sensitive_miss="adapter")
    assert (outcome.route, outcome.degraded) == ("adapter", ["retrieval"])


def test_without_an_engine_the_passages_are_quoted(index: Index) -> None:
    text, outcome = ask(index, ScriptedEngine(), "refund please")
    assert text == "From our help centre:\nYou can request a refund within 90 days. [1]"
    assert (outcome.route, outcome.degraded) == ("quoted", ["engine"])


def test_without_an_engine_and_without_passages_there_is_no_answer(index: Index) -> None:
    with pytest.raises(EngineUnavailable, match="nobody there"):
        ask(index, ScriptedEngine(), WEATHER)
