"""One chat request, top to bottom.

redact → arm → search → route → prompt → engine → cite, sentence by sentence → outcome
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from assistant import prompt
from assistant.citations import Citation, Citer, without_markers
from assistant.engine import BASE_NAME, Engine, Sampling, Usage
from assistant.prompt import Message
from assistant.quoting import quote
from assistant.redaction import Redactor
from retrieval.index import Index, Search
from retrieval.language import Language, language_of

Route = Literal["grounded", "quoted", "adapter", "clarify", "refuse", "handoff"]

HANDOFF: dict[Language, str] = {
    "en": "The help centre has no article on this. A person can help you: please contact support.",
    "zh": "帮助中心没有找到与您的问题相关的文章。请联系人工客服，由专人为您解答。",
}
QUOTED: dict[Language, str] = {"en": "From our help centre:", "zh": "帮助中心的说明："}
_SENTENCE_END = re.compile(r"[.!?][”’\"')]*(?=\s)|[。！？]|\n")
_OPEN_MARKER = re.compile(r"[^\S\n]*(?:\[\d*)?$")


@dataclass(frozen=True)
class Arm:
    """A way to answer that can be asked for by model name."""

    rag: bool
    """Passages are searched for and put into the prompt."""
    lora: bool
    """The adapter answers, not the base alone."""


ARMS = {
    "assistant": Arm(rag=True, lora=True),
    "assistant:rag+lora": Arm(rag=True, lora=True),
    "assistant:rag": Arm(rag=True, lora=False),
    "assistant:lora": Arm(rag=False, lora=True),
    "assistant:base": Arm(rag=False, lora=False),
}


@dataclass
class Outcome:
    """How an answer was made; filled in while it is written, whole at its end."""

    route: Route = "adapter"
    search: Search | None = None
    citations: list[Citation] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True)
class Assistant:
    """What one release needs to answer."""

    index: Index
    engine: Engine
    adapter: str
    languages: tuple[str, ...]
    """Languages that the model writes; questions in others are answered by quoting."""
    passages: int
    """Passages put into the prompt."""
    merged: bool = False
    """The engine serves the adapter merged into the base, and not the base alone."""

    @property
    def arms(self) -> dict[str, Arm]:
        """The ways to answer that are offered, by model name."""
        return {name: arm for name, arm in ARMS.items() if arm.lora or not self.merged}

    async def answer(
        self, conversation: Sequence[Message], arm: Arm, sampling: Sampling, outcome: Outcome
    ) -> AsyncIterator[str]:
        """The answer to the last message of `conversation`, in pieces, citation markers included.

        Raises:
            EngineError: The engine cannot be reached, or failed.
            InputError: The conversation is too long for the engine.
        """
        texts = Redactor().conversation([message.content for message in conversation])
        conversation = [replace(message, content=text) for message, text in zip(conversation, texts, strict=True)]
        question = conversation[-1].content
        language = language_of(question)

        if arm.rag:
            query = prompt.search_query(conversation)
            outcome.search = await asyncio.to_thread(self.index.search, query, self.passages, language)
        search = outcome.search if outcome.search and outcome.search.hit else None
        outcome.route = self._route(search, language)
        citer = Citer(search.found if search else ())
        outcome.citations = citer.citations

        if outcome.route == "handoff":
            yield HANDOFF[language]
        elif search and outcome.route == "quoted":
            lines = await asyncio.to_thread(quote, question, search.found, self.index, citer)
            yield f"{QUOTED[language]}\n{lines}"
        else:
            passages = [found.passage for found in search.found] if search else []
            model = self.adapter if arm.lora else BASE_NAME
            messages = prompt.build(conversation, passages)
            pieces = self.engine.stream(model, messages, sampling, outcome.usage)
            async for piece in _cited(pieces, citer):
                yield piece

    def _route(self, search: Search | None, language: Language) -> Route:
        if language not in self.languages:
            return "quoted" if search else "handoff"
        return "grounded" if search else "adapter"


async def _cited(pieces: AsyncIterator[str], citer: Citer) -> AsyncIterator[str]:
    """The same text, a citation marker after each sentence that a passage supports.

    Text is passed on as it comes; only what may turn out to be a marker of the model's own waits.
    """
    sentence, sent = "", 0
    async for piece in pieces:
        sentence = without_markers(sentence + piece)
        while end := _SENTENCE_END.search(sentence):
            stop = end.start() if end[0] == "\n" else end.end()
            yield sentence[sent:stop] + _marker(citer, sentence[:stop]) + sentence[stop : end.end()]
            sentence, sent = sentence[end.end() :], 0
        waiting = _OPEN_MARKER.search(sentence)
        ready = max(sent, waiting.start() if waiting else len(sentence))
        if ready > sent:
            yield sentence[sent:ready]
            sent = ready
    if sentence:
        yield sentence[sent:] + _marker(citer, sentence)


def _marker(citer: Citer, sentence: str) -> str:
    number = citer.cite(sentence)
    return f" [{number}]" if number else ""
