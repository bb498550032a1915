"""A recorded reply, answered once more by its release: the same prompt token ids and, greedy in fp32, the same text.

The transcript keeps what proves a prompt: the ids of its messages and of its token ids, and how the engine was told to
write. The release keeps the index and the adapter.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assistant import prompt, releases
from assistant.base_models import languages, load_tokenizer, prepare, served_folder
from assistant.chat import Arm, Assistant, Outcome
from assistant.engine import Engine, Sampling
from assistant.engine_process import EngineProcess
from assistant.exchange import Reply, redacted
from assistant.live import training_record
from assistant.live_index import open_index
from assistant.policy import read_policy
from assistant.prompt import Message
from assistant.prompts import read_prompts
from assistant.serve import merged_folder
from assistant.settings import Settings
from assistant.state import State, Transcript
from assistant.tracing import Span
from retrieval.errors import EngineError, EngineUnavailable, InputError, NotReady
from retrieval.files import content_id

_WRITTEN = ("grounded", "adapter")
"""The routes on which a model answers."""
_PARTS = {
    "conversation": "the conversation (redacting it again changed it)",
    "prompt": "prompt texts",
    "index": "index",
    "passages": "passages",
    "answers_by": "code or settings",
    "degraded": "what failed",
}
"""What messages are made of: by field, in words."""
_EXCERPT_CHARACTERS = 30


@dataclass(frozen=True)
class Answered:
    """How a reply came about."""

    route: str
    conversation: str
    """Names what was said before."""
    prompt: str
    """Id of the prompt's texts."""
    index: str
    passages: tuple[str, ...]
    """Ids of those that the search found."""
    answers_by: str
    """Names the code and settings that shape answers."""
    degraded: tuple[str, ...]
    """Parts that failed, and without which it was made."""
    asked: str | None
    """Names the messages that the engine was sent; None where no model was asked."""
    prompt_tokens: int
    """As the engine counted them."""
    prompt_tokens_id: str | None
    """Names the prompt's token ids, as the engine read them; None where no model answered."""
    text: str
    """Redacted, with citation markers; then the calls of tools, without their ids."""


@dataclass(frozen=True)
class Replay:
    """A reply beside what its release answers now."""

    reply: str
    release: str
    temperature: float
    """Above 0 the text may differ by chance."""
    then: Answered
    now: Answered
    tokens: tuple[int, ...] = ()
    """Ids of the prompt as the base's tokenizer makes them; none where no model answers."""

    @property
    def changed(self) -> tuple[str, ...]:
        """What answers are made of, and is not what it was: names of fields of `Answered`."""
        return tuple(part for part in _PARTS if getattr(self.then, part) != getattr(self.now, part))

    @property
    def same_tokens(self) -> bool:
        """The engine then, the engine now and the tokenizer make the same ids of the prompt."""
        return self.then.prompt_tokens_id == self.now.prompt_tokens_id == self.tokens_id

    @property
    def tokens_id(self) -> str | None:
        """Names `tokens`; None where there are none."""
        return prompt.tokens_id(self.tokens) if self.tokens else None

    @property
    def first_difference(self) -> int | None:
        """How many characters both texts begin with; None if they are the same."""
        then, now = self.then.text, self.now.text
        if then == now:
            return None
        pairs = enumerate(zip(then, now, strict=False))
        return next((at for at, (one, other) in pairs if one != other), min(len(then), len(now)))

    @property
    def same(self) -> bool:
        """The same route, messages, token ids and text; code and settings may have changed where they do not matter."""
        kept = (self.then.route, self.then.asked, self.then.text) == (self.now.route, self.now.asked, self.now.text)
        return kept and self.same_tokens


def replay(settings: Settings, reply: str, say: Callable[[str], None], url: str | None = None) -> Replay:
    """Have the release that wrote `reply` answer the recorded conversation again, and compare.

    What a model wrote needs an engine: the one at `url`, which serves the adapter already, or one of its own.

    Raises:
        UnknownReply: No such reply was recorded.
        InputError: It was broken off, was recorded without what a replay needs, or its way to answer is gone.
        NotReady: The index or the adapter of its release is gone, or the engine at `url` does not serve the adapter.
        EngineError: The engine did not start, or failed.
    """
    transcript = _recorded(settings, reply)
    written = transcript.route in _WRITTEN
    release = releases.read(settings.releases, transcript.release)
    index_id, adapter = releases.require(release, str(release.base))
    _check_kept(settings.indexes / index_id, "index", transcript.release, settings)
    if written:
        _check_kept(settings.adapters / adapter, "adapter", transcript.release, settings)
    settings = settings.model_copy(update={"base": str(release.base)})
    say(f"release {transcript.release}: index {index_id}, adapter {adapter} on {release.base}")
    with contextlib.ExitStack() as stack:
        index = stack.enter_context(contextlib.closing(open_index(settings, index_id)))
        address = ""
        if written:
            address = url or stack.enter_context(_own_engine(settings, adapter, say))
        assistant = Assistant(
            release=transcript.release,
            index=index,
            engine=Engine(address, is_ready=lambda: written),
            adapter=adapter,
            languages=settings.base_languages or languages(settings.base),
            policy=read_policy(settings.policy),
            settings=settings,
            prompts=read_prompts(settings.prompts),
        )
        return asyncio.run(_replayed(assistant, transcript, written))


def lines(replay: Replay) -> list[str]:
    """The comparison in words, its verdict last."""
    then, now = replay.then, replay.now
    told = [f"route    {then.route}" if then.route == now.route else f"route    {then.route} then, {now.route} now"]
    if replay.changed:
        told.append(f"changed  {', '.join(_PARTS[part] for part in replay.changed)}")
    if then.asked == now.asked:
        told.append(f"prompt   the same: messages {then.asked}" if then.asked else "prompt   none: no model was asked")
    else:
        told.append(f"prompt   differs: messages {then.asked} then, {now.asked} now")
    if replay.same_tokens and replay.tokens:
        told.append(f"tokens   the same: {len(replay.tokens)} ids, by the engine then and now, and by the tokenizer")
    elif not replay.same_tokens:
        told.append(
            f"tokens   differ: {then.prompt_tokens} ids then ({then.prompt_tokens_id}); now {now.prompt_tokens} by the "
            f"engine ({now.prompt_tokens_id}), {len(replay.tokens)} by the tokenizer ({replay.tokens_id})"
        )
    at = replay.first_difference
    if at is None:
        told.append(f"text     the same: {len(then.text)} characters")
    else:
        before, after = (text[at : at + _EXCERPT_CHARACTERS] for text in (then.text, now.text))
        told.append(f"text     differs after {at} characters: {before!r} then, {after!r} now")
        if replay.temperature:
            told.append(f"         it was sampled at temperature {replay.temperature:g}, and may differ by chance")
    return [*told, "the same" if replay.same else "not the same"]


def _recorded(settings: Settings, reply: str) -> Transcript:
    with contextlib.closing(State(settings.database_url)) as state:
        transcript = state.transcript(reply)
    made = transcript.made
    if made.get("status", "answered") != "answered":
        raise InputError(f"the reply {transcript.id} was {made['status']} before its end; replay one that is whole")
    if "asked" not in made or (transcript.route in _WRITTEN and not made["usage"].get("prompt_tokens_id")):
        raise InputError(
            f"the reply {transcript.id} of {transcript.at:%Y-%m-%d} was recorded without its sampling or the token ids "
            "of its prompt, by an earlier version or of an engine that tells none; replay a later one"
        )
    return transcript


def _check_kept(folder: Path, part: str, release: str, settings: Settings) -> None:
    if folder.is_dir():
        return
    pruned = ", which was pruned," if releases.is_pruned(settings.releases, release) else ""
    raise NotReady(f"the {part} {folder.name} of the release {release}{pruned} is gone; restore {folder} from a backup")


@contextlib.contextmanager
def _own_engine(settings: Settings, adapter: str, say: Callable[[str], None]) -> Iterator[str]:
    """The address of an engine that serves `adapter`, and runs as long as the block does."""
    record, log = training_record(settings, adapter), settings.logs / "replay-engine.log"
    if settings.merged:
        model, lora = str(merged_folder(settings, adapter)), None
    else:
        model = served_folder(settings.base, settings.models, record["recipe"]["quantize"])
        lora = settings.adapters / adapter
    process = EngineProcess(settings, model, adapter, lora, log)
    say(f"starting an engine in {settings.engine_dtype}; its log: {log}")
    try:
        process.start()
        yield process.url
    finally:
        process.stop()


async def _replayed(assistant: Assistant, transcript: Transcript, written: bool) -> Replay:
    arm = assistant.arm(transcript.arm)
    if arm is None:
        raise InputError(
            f"the reply {transcript.id} was asked for as {transcript.arm!r}, which is not known any more; "
            "set ASSISTANT_PROMPTS to the file that has its prompt"
        )
    *said, recorded = transcript.messages
    sampling = _sampling(transcript.made["sampling"], assistant.settings)
    outcome, reply = Outcome(), Reply()
    try:
        if written:
            await _check_served(assistant)
        pieces = assistant.answer(list(map(_message, said)), arm, sampling, outcome, Span(), whole=True)
        async for piece in pieces:
            if piece.choice == 0:
                reply.add(piece)
    except EngineUnavailable:
        if written:
            raise  # else no model was asked then, and one would be now
    finally:
        await assistant.engine.close()
    tokens: list[int] = []
    if written and outcome.route in _WRITTEN:
        if outcome.usage.prompt_tokens_id is None:
            raise EngineError(
                f"the engine at {assistant.engine.url} tells no token ids of a prompt; leave out --url to start one "
                "that does"
            )
        tokenizer = load_tokenizer(prepare(assistant.settings.base, assistant.settings.models))
        tokens = prompt.tokens(tokenizer, outcome.messages, (outcome.sampling or sampling).passed.get("tools", ()))
    return Replay(
        reply=transcript.id,
        release=transcript.release,
        temperature=sampling.temperature,
        then=_then(transcript, recorded),
        now=_now(assistant, arm, outcome, reply),
        tokens=tuple(tokens),
    )


async def _check_served(assistant: Assistant) -> None:
    served = await assistant.engine.models()
    if assistant.adapter not in served:
        raise NotReady(
            f"the engine at {assistant.engine.url} does not serve the adapter {assistant.adapter} but "
            f"{', '.join(served)}; leave out --url to start one that does"
        )


def _message(said: dict[str, Any]) -> Message:
    calls = tuple(said.get("tool_calls") or ())
    return Message(said["role"], said["content"] or "", calls, said.get("tool_call_id"))


def _sampling(recorded: dict[str, Any] | None, settings: Settings) -> Sampling:
    """As the engine was told to write; any where it was not asked."""
    if recorded is None:
        return Sampling(settings.max_answer_tokens)
    return Sampling(**{**recorded, "stop": tuple(recorded["stop"])})


def _then(transcript: Transcript, reply: dict[str, Any]) -> Answered:
    made = transcript.made
    return Answered(
        route=transcript.route,
        conversation=content_id(json.dumps(transcript.messages[:-1])),
        prompt=made["prompt"],
        index=made["index"],
        passages=tuple(made["found"]),
        answers_by=made["answers_by"],
        degraded=tuple(made["degraded"]),
        asked=made["asked"],
        prompt_tokens=made["usage"]["prompt_tokens"],
        prompt_tokens_id=made["usage"].get("prompt_tokens_id") if transcript.route in _WRITTEN else None,
        text=_text(reply),
    )


def _now(assistant: Assistant, arm: Arm, outcome: Outcome, reply: Reply) -> Answered:
    said = [message.as_dict() for message in outcome.conversation if message.role != "system"]
    return Answered(
        route=outcome.route,
        conversation=content_id(json.dumps(said)),
        prompt=arm.prompt.id,
        index=assistant.index.id,
        passages=tuple(found.passage.id for found in outcome.search.found) if outcome.search else (),
        answers_by=assistant.answers_by,
        degraded=tuple(outcome.degraded),
        asked=outcome.asked,
        prompt_tokens=outcome.usage.prompt_tokens,
        prompt_tokens_id=outcome.usage.prompt_tokens_id if outcome.route in _WRITTEN else None,
        text=_text(redacted(reply.message())),
    )


def _text(reply: dict[str, Any]) -> str:
    calls = [call["function"] for call in reply.get("tool_calls") or ()]
    return str(reply["content"] or "") + "".join(f"{call['name']}({call['arguments']})" for call in calls)
