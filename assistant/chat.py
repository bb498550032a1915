"""One chat request, top to bottom.

redact → a person's case? → search → route → prompt → engine → verify, sentence by sentence → outcome
"""

import asyncio
import functools
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import orjson

from assistant import prompt
from assistant.citations import Citation, Citer
from assistant.engine import BASE_NAME, Engine, Piece, Sampling, Usage
from assistant.figures import Figure, figures, figures_of_passage, unsupported
from assistant.policy import Policy
from assistant.prompt import Message
from assistant.prompts import PLAIN, Prompt
from assistant.quoting import quote
from assistant.redaction import Redactor, redacted_value, without_private_fields
from assistant.settings import Settings
from assistant.tracing import Span
from assistant.verification import Verifier
from retrieval.errors import EngineError
from retrieval.files import content_id, sha256
from retrieval.index import Found, Index, Search
from retrieval.language import Language, language_of

Route = Literal["grounded", "quoted", "adapter", "clarify", "refuse", "handoff"]

QUOTED: dict[Language, str] = {"en": "From our help centre:", "zh": "帮助中心的说明："}
WITHHELD: dict[Language, str] = {
    "en": "(A figure that our articles do not confirm is left out here.)",
    "zh": "（此处省略了帮助中心未能证实的数字。）",
}
_SHAPING = {
    *("passages", "max_answer_tokens", "on_miss", "on_sensitive_miss", "on_ambiguous", "withhold_figures"),
    *("reranker", "base_languages", "merged", "engine_url", "engine_dtype", "engine_args", "search_s"),
}
"""The settings that change what is answered."""
_log = logging.getLogger("assistant")


@dataclass(frozen=True)
class Arm:
    """A way to answer that can be asked for by model name."""

    rag: bool
    """Passages are searched for and put into the prompt."""
    lora: bool
    """The adapter answers, not the base alone."""
    writes: bool = True
    """A model answers; else passages are quoted."""
    prompt: Prompt = PLAIN


ARMS = {
    "assistant": Arm(rag=True, lora=True),
    "assistant:rag+lora": Arm(rag=True, lora=True),
    "assistant:rag": Arm(rag=True, lora=False),
    "assistant:lora": Arm(rag=False, lora=True),
    "assistant:base": Arm(rag=False, lora=False),
    "assistant:quoted": Arm(rag=True, lora=False, writes=False),
}


@dataclass
class Outcome:
    """How an answer was made; filled in while it is written, whole at its end."""

    conversation: list[Message] = field(default_factory=list)
    """What was said before, redacted."""
    language: Language = "en"
    route: Route = "adapter"
    reason: str | None = None
    """Why a person has to take over, or the topic that nobody answers without a passage."""
    search: Search | None = None
    citations: list[Citation] = field(default_factory=list)
    dropped_citations: int = 0
    """Markers of the model whose sentences no passage supports."""
    unsupported: list[str] = field(default_factory=list)
    """Figures in the answer that neither a passage nor the customer states."""
    degraded: list[Literal["retrieval", "engine"]] = field(default_factory=list)
    """Parts that failed, and without which the answer was made."""
    messages: list[Message] = field(default_factory=list)
    """The prompt as it was sent to the engine; empty where no model was asked."""
    sampling: Sampling | None = None
    """How the engine was told to write, redacted; None where no model was asked."""
    usage: Usage = field(default_factory=Usage)
    search_s: float = 0.0

    @property
    def asked(self) -> str | None:
        """Names the prompt by its content; None where no model was asked."""
        said = [message.as_dict() for message in self.messages]
        return content_id(json.dumps(said)) if said else None


@dataclass(frozen=True)
class Assistant:
    """What one release needs to answer."""

    release: str
    index: Index
    engine: Engine
    adapter: str
    languages: tuple[str, ...]
    """Languages that the model writes; questions in others are answered by quoting."""
    policy: Policy
    settings: Settings
    prompts: Mapping[str, Prompt] = field(default_factory=lambda: {"plain": PLAIN})
    """By name, as `assistant:rag@name` asks for them."""
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a conversation is read, a millisecond or two: sixteen in a row would keep all others waiting."""

    @property
    def arms(self) -> dict[str, Arm]:
        """The ways to answer that are offered, by model name; a merged adapter leaves no base to ask alone."""
        return {name: arm for name, arm in ARMS.items() if arm.lora or not (arm.writes and self.settings.merged)}

    @functools.cached_property
    def answers_by(self) -> str:
        """Names the settings, texts and code that shape answers, beside adapter, index and prompt."""
        return content_id(self.settings.model_dump_json(include=_SHAPING), *_shaping_files(self.settings.policy))

    def arm(self, model: str) -> Arm | None:
        """The way to answer of this name, with the prompt behind its `@` if it has one; None if there is none."""
        name, _, prompt_name = model.partition("@")
        arm, asked = self.arms.get(name), self.prompts.get(prompt_name or "plain")
        return replace(arm, prompt=asked) if arm and asked else None

    async def answer(
        self,
        conversation: Sequence[Message],
        arm: Arm,
        sampling: Sampling,
        outcome: Outcome,
        span: Span,
        whole: bool = False,
    ) -> AsyncGenerator[Piece, None]:
        """The answer to the last question of `conversation`, citation markers included, in pieces or `whole`.

        Raises:
            EngineError: The engine cannot be reached, or failed.
            InputError: The conversation is too long for the engine.
        """
        redactor = Redactor()
        found = await self._decided(conversation, arm, redactor, outcome, span)
        sampling, language = _redacted_sampling(sampling, redactor), outcome.language
        citer = Citer(found)
        outcome.citations = citer.citations

        if outcome.route in ("clarify", "refuse", "handoff"):
            for piece in _whole(self.policy.reply(outcome.route, language, outcome.reason), sampling):
                yield piece
            return
        begun = False
        if outcome.route != "quoted":
            model, outcome.messages = self._asked(arm, outcome, found)
            outcome.sampling = sampling
            try:
                with span.generation(model, sampling) as generation:
                    async for piece in self._verified(model, outcome.messages, sampling, citer, outcome, whole):
                        begun = True
                        yield piece
                    generation.used(outcome.usage, [outcome.usage.finish_reason])
                return
            except EngineError as error:
                if begun or not found or _is_structured(sampling):
                    raise
                _log.warning("quoting, since the engine gave no answer: %s", type(error).__name__)
                outcome.route = "quoted"
                outcome.degraded.append("engine")
                span.routed(outcome.route)
        lines = await asyncio.to_thread(quote, _question(outcome.conversation), found, self.index, citer)
        for piece in _whole(f"{QUOTED[language]}\n{lines}", sampling):
            yield piece

    async def likelihood(
        self, conversation: Sequence[Message], arm: Arm, answer: str, outcome: Outcome
    ) -> tuple[float, int] | None:
        """The log probability of `answer` in place of the model's, and its tokens; None where no model would answer.

        Raises:
            EngineError, InputError: As `answer` says.
        """
        redactor = Redactor()
        found = await self._decided(conversation, arm, redactor, outcome, Span(None, None))
        if outcome.route not in ("grounded", "adapter"):
            return None
        return await self.engine.likelihood(*self._asked(arm, outcome, found), redactor(answer))

    async def _decided(
        self, conversation: Sequence[Message], arm: Arm, redactor: Redactor, outcome: Outcome, span: Span
    ) -> Sequence[Found]:
        """Read the conversation, search, and choose the route; returned are the passages of a hit."""
        async with self.reading:
            await asyncio.sleep(0)  # whoever is not reading has its turn between two conversations
            outcome.conversation = _redacted(conversation, redactor)
            question = _question(outcome.conversation)
            outcome.language = language_of(question)
            outcome.reason = self.policy.handoff(outcome.conversation)
        if arm.rag and outcome.reason is None:
            with span.retrieval():
                await self._search(outcome.conversation, outcome.language, outcome)
        outcome.route = self._route(question, arm, outcome)
        span.routed(outcome.route)
        return outcome.search.found if outcome.search and outcome.search.hit else ()

    def _asked(self, arm: Arm, outcome: Outcome, found: Sequence[Found]) -> tuple[str, list[Message]]:
        """The model that answers, and the messages for it."""
        examples = arm.prompt.examples.get(outcome.language, ())
        passages = [each.passage for each in found]
        messages = prompt.build(outcome.conversation, passages, arm.prompt.instructions, examples)
        return self.adapter if arm.lora else BASE_NAME, messages

    async def _search(self, conversation: Sequence[Message], language: Language, outcome: Outcome) -> None:
        started = time.monotonic()
        query = prompt.search_query(conversation)
        work = asyncio.to_thread(self.index.search, query, self.settings.passages, language)
        try:
            outcome.search = await asyncio.wait_for(work, self.settings.search_s)
        except Exception as error:  # whatever breaks in retrieval, the customer gets an answer that says so
            _log.error("the search failed: %s", type(error).__name__)
            outcome.degraded.append("retrieval")
        outcome.search_s = time.monotonic() - started

    def _route(self, question: str, arm: Arm, outcome: Outcome) -> Route:
        search, writes = outcome.search, arm.writes and outcome.language in self.languages
        if outcome.reason is not None:
            return "handoff"
        if search is not None and search.decision == "ambiguous" and self.settings.on_ambiguous == "clarify":
            return "clarify"
        if search is not None and search.hit:
            return "grounded" if writes else "quoted"
        missed: Route = "adapter"
        if arm.rag:
            outcome.reason = self.policy.needs_passage(question)
            missed = self.settings.on_sensitive_miss if outcome.reason else self.settings.on_miss
        return missed if writes or missed != "adapter" else "handoff"

    async def _verified(
        self, model: str, messages: list[Message], sampling: Sampling, citer: Citer, outcome: Outcome, whole: bool
    ) -> AsyncIterator[Piece]:
        """What the engine writes, each of the answers asked for judged by itself."""
        known = _stated(outcome)
        if _is_structured(sampling):
            texts: dict[int, str] = {}
            async for piece in self.engine.answer(model, messages, sampling, outcome.usage, whole):
                texts[piece.choice] = texts.get(piece.choice, "") + piece.text
                yield piece
            outcome.unsupported += [each for text in texts.values() for each in unsupported(text, known)]
            return
        instead = WITHHELD[outcome.language] if self.settings.withhold_figures else None
        verifiers: dict[int, Verifier] = {}
        async for piece in self.engine.answer(model, messages, sampling, outcome.usage, whole):
            verifier = verifiers.get(piece.choice) or verifiers.setdefault(
                piece.choice, Verifier(citer, known, instead)
            )
            text = verifier.feed(piece.text) if piece.text else ""
            if piece.finish_reason:
                text += verifier.end()
                outcome.dropped_citations += verifier.dropped
                outcome.unsupported += verifier.unsupported
            # The probabilities of words that are withheld would tell them.
            logprobs = None if instead else piece.logprobs
            if text or piece.tool_calls or logprobs or piece.finish_reason:
                yield replace(piece, text=text, logprobs=logprobs)


@functools.cache
def _shaping_files(policy: Path | None) -> tuple[str, ...]:
    """The SHA-256 of the code and texts that shape answers, as this process first found them: it loads them once."""
    root = Path(__file__).parents[1]
    code = [path for folder in ("assistant", "retrieval") for path in sorted((root / folder).glob("*.py"))]
    shipped = [path for path in (policy, root / "assistant" / "policy.yaml") if path]
    return tuple(sha256(path) for path in (*code, *shipped))


def _question(conversation: Sequence[Message]) -> str:
    return next(message.content for message in reversed(conversation) if message.role == "user")


def _redacted(conversation: Sequence[Message], redactor: Redactor) -> list[Message]:
    told = (
        without_private_fields(message.content, redactor) if message.role == "tool" else message.content
        for message in conversation
    )
    texts = redactor.conversation(list(told))
    return [
        replace(
            message,
            content=text,
            tool_calls=tuple(redacted_call(call, redactor) for call in message.tool_calls),
            tool_call_id=message.tool_call_id and redactor(message.tool_call_id),
        )
        for message, text in zip(conversation, texts, strict=True)
    ]


def _redacted_sampling(sampling: Sampling, redactor: Redactor) -> Sampling:
    stop = tuple(map(redactor, sampling.stop))
    return replace(sampling, stop=stop, passed=redacted_value(dict(sampling.passed), redactor))


def redacted_call(call: dict[str, Any], redactor: Redactor) -> dict[str, Any]:
    """A call of a tool, in OpenAI's shape, without personal data in its names or arguments."""
    function = call["function"]
    arguments = function["arguments"]
    try:
        value = orjson.loads(arguments)
        redacted = redacted_value(value, redactor, private=True)
        arguments = arguments if redacted == value else orjson.dumps(redacted).decode()
    except (ValueError, TypeError, RecursionError):  # no JSON, or none that can be read
        arguments = redactor(arguments)
    named = {"name": redactor(function.get("name", "")), "arguments": arguments}
    return call | {"id": redactor(call.get("id", "")), "function": function | named}


def _stated(outcome: Outcome) -> frozenset[Figure]:
    """The figures that the passages, tools or the customer state."""
    said = [message.content for message in outcome.conversation if message.role in ("user", "tool")]
    found = outcome.search.found if outcome.search and outcome.search.hit else ()
    stated = [*map(figures, said), *(figures_of_passage(each.passage.context) for each in found)]
    return frozenset[Figure]().union(*stated)


def _is_structured(sampling: Sampling) -> bool:
    """JSON was asked for, into which no marker may be put."""
    shape = sampling.passed.get("response_format")
    return shape is not None and shape.get("type") != "text"


def _whole(text: str, sampling: Sampling) -> list[Piece]:
    """A fixed text as each of the answers that were asked for."""
    return [Piece(text, choice, finish_reason="stop") for choice in range(sampling.passed.get("n") or 1)]
