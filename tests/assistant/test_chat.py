"""One chat request with a real index; only the engine is scripted."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from assistant.chat import ARMS, HANDOFF, Assistant, Outcome, _cited
from assistant.citations import Citer
from assistant.engine import Sampling, Usage
from assistant.prompt import Message
from assistant.redaction import redact
from retrieval.build import build
from retrieval.index import Found, Index
from retrieval.passages import Passage

ARTICLES = {
    "en/refund.md": "# Refunds\n\nYou can request a refund within 90 days.\n",
    "en/fee.md": "# Withdrawals\n\nThe fee is 2 EUR.\n",
    "zh/refund.md": "# 退款\n\n九十天内可以申请退款。周末也算在内。\n",
}


class ScriptedEngine:
    """Says its lines, whatever it is asked, and keeps what it was asked."""

    def __init__(self, *lines: str) -> None:
        self.lines = lines
        self.asked: list[tuple[str, list[Message]]] = []

    async def stream(self, model: str, messages: list[Message], sampling: Sampling, usage: Usage) -> AsyncIterator[str]:
        self.asked.append((model, messages))
        for line in self.lines:
            yield line


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
) -> tuple[str, Outcome]:
    """The answer to the last of `turns`, which the customer and the assistant write in turn."""
    roles = ("user", "assistant")
    conversation = [Message(roles[i % 2], turn) for i, turn in enumerate(turns)]
    assistant = Assistant(index, engine, "adapter-1", tuple(languages), passages=1)
    outcome = Outcome()

    async def collect() -> str:
        return "".join([piece async for piece in assistant.answer(conversation, ARMS[arm], Sampling(50), outcome)])

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
    assert (text, outcome.route, engine.asked) == (HANDOFF["zh"], "handoff", [])
    assert outcome.citations == []


def test_an_english_miss_goes_to_the_adapter_without_passages(index: Index) -> None:
    engine = ScriptedEngine("You can request a refund within 90 days.")
    text, outcome = ask(index, engine, "Hello there, what is the weather like today in your beautiful city?")
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


# What the model writes as markers is never passed on.

TEXT = "A refund takes 90 days. The fee is 2 EUR."
LIMIT = Found(Passage("1", "a.md", "a", "T", "", TEXT, "en", 0, 41, "line 1"), 0.9, 0.9, 0.0)


def cited(pieces: Sequence[str]) -> str:
    async def stream() -> AsyncIterator[str]:
        for piece in pieces:
            yield piece

    async def collect() -> str:
        return "".join([piece async for piece in _cited(stream(), Citer([LIMIT]))])

    return asyncio.run(collect())


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["A refund takes 90 days."], "A refund takes 90 days. [1]"),
        (["A refund takes 90 days. ", "Bye!"], "A refund takes 90 days. [1] Bye!"),
        (["A refund takes 90 days\nBye"], "A refund takes 90 days [1]\nBye"),
        (["A refund takes 90 days [7]. Bye"], "A refund takes 90 days. [1] Bye"),
        (["A refund takes 90 days [", "7", "]", ". Bye"], "A refund takes 90 days. [1] Bye"),
        (["A refund takes 90 days. [", "7] Bye"], "A refund takes 90 days. [1] Bye"),
        (["A refund takes 90 days ", "[7]."], "A refund takes 90 days. [1]"),
        (["A refund takes 90 days", "[123", "]."], "A refund takes 90 days. [1]"),
        (["The fee is 2", ".", "5 EUR."], "The fee is 2.5 EUR."),
        (["Is it 90 days? A list [a"], "Is it 90 days? A list [a"),
        ([], ""),
    ],
)
def test_markers_are_ours_and_only_ours(pieces: list[str], text: str) -> None:
    assert cited(pieces) == text


@pytest.mark.parametrize(
    "text",
    [
        "A refund takes 90 days [3]. The fee is 2 EUR. Is it? It is.\n\n- The fee is 2.5 EUR [x]\n- A refund [12]!",
        "A refund takes 90 days.\n[1] The fee is 2 EUR [2]\nBye [123].",
        "退款。 A refund takes 90 days！[1]The fee is 2 EUR [1][2]. [ 3] [4",
        "A refund takes 90 days.  \n",
    ],
)
def test_how_the_stream_is_cut_does_not_change_the_answer(text: str) -> None:
    whole = cited([text])
    for seed in range(300):
        chance = random.Random(seed)
        cuts = sorted(chance.sample(range(1, len(text)), chance.randrange(1, len(text) - 1)))
        pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert cited(pieces) == whole, pieces
