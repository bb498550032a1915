"""One request of the chat endpoint: waits for its turn, is answered by the release that then serves, is recorded."""

import logging
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from assistant.access import Access, Tenant
from assistant.admission import Admission
from assistant.canary import MODEL as CANARY
from assistant.chat import Arm, Assistant, Outcome, redacted_call
from assistant.engine import Piece, Sampling
from assistant.experiment import Assignment, Experiments
from assistant.live import Live
from assistant.metrics import Metrics
from assistant.prompt import Message
from assistant.redaction import Redactor
from assistant.state import State, Transcript
from assistant.tracing import Tracer

Status = Literal["answered", "failed", "cancelled"]
_log = logging.getLogger("assistant")


@dataclass(frozen=True)
class Service:
    """What all requests share."""

    live: Live
    access: Access
    admission: Admission
    state: State
    metrics: Metrics
    tracer: Tracer
    experiments: Experiments | None = None


@dataclass(frozen=True)
class Caller:
    tenant: Tenant
    address: str
    customer: str | None = None
    """A pseudonym."""
    conversation: str | None = None
    traceparent: str | None = None


@dataclass
class Seconds:
    """Where the time of a request went."""

    queue: float = 0.0
    search: float = 0.0
    first: float = 0.0
    """From the request to the first piece; 0 without one."""
    total: float = 0.0


@dataclass
class Reply:
    """One of the answers that were asked for, as it was sent."""

    text: list[str] = field(default_factory=list)
    tool_calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str = "stop"

    def add(self, piece: Piece) -> None:
        self.text.append(piece.text)
        for part in piece.tool_calls:
            call = self.tool_calls.setdefault(part.get("index", 0), {"type": "function", "function": {"arguments": ""}})
            function = part.get("function") or {}
            if part.get("id"):
                call["id"] = part["id"]
            if function.get("name"):
                call["function"]["name"] = function["name"]
            call["function"]["arguments"] += function.get("arguments") or ""
        if piece.logprobs:
            self.logprobs += piece.logprobs.get("content") or []
        self.finish_reason = piece.finish_reason or self.finish_reason

    def message(self) -> dict[str, Any]:
        """In the shape of the OpenAI API."""
        text, calls = "".join(self.text), [self.tool_calls[i] for i in sorted(self.tool_calls)]
        message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
        return message | ({"tool_calls": calls} if calls else {})


def redacted(reply: dict[str, Any]) -> dict[str, Any]:
    """A reply as it is recorded: JSON and arguments of tools were not judged sentence by sentence."""
    redactor = Redactor()
    calls = [redacted_call(call, redactor) for call in reply.get("tool_calls", ())]
    text = redactor(reply["content"]) if reply["content"] else reply["content"]
    return reply | {"content": text} | ({"tool_calls": calls} if calls else {})


class Exchange:
    """One question and its answers."""

    def __init__(
        self,
        service: Service,
        caller: Caller,
        model: str,
        arm: Arm,
        conversation: Sequence[Message],
        sampling: Sampling,
        whole: bool,
        assignment: Assignment | None = None,
        canary: str | None = None,
    ) -> None:
        """`model` is the name of the arm; `whole`: no piece is wanted before the last one.

        `canary` is the release on trial that answers, if it still is when the turn comes.
        """
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = model
        self.arm = arm
        self.outcome = Outcome()
        self.replies: dict[int, Reply] = {}
        self._service = service
        self._caller = caller
        self._conversation = conversation
        self._sampling = sampling
        self._whole = whole
        self._assignment = assignment
        self._canary = canary
        self._assistant: Assistant | None = None
        self._started = time.monotonic()
        self._seconds = Seconds()
        self._pieces = 0

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """The pieces of the answers; however it ends, metrics, log and transcript tell.

        Raises:
            Overloaded: No turn came.
            InputError, EngineError: As `Assistant.answer` says.
        """
        service = self._service
        status: Status = "cancelled"
        try:
            async with service.admission.turn() as self._seconds.queue:
                with (
                    service.live.use(self._canary) as assistant,
                    service.tracer.request(assistant.release, self._caller.traceparent) as span,
                ):
                    self._assistant = assistant
                    if self._canary and assistant.release != self._canary:  # its trial ended meanwhile
                        self._assignment = None
                    answer = assistant.answer(
                        self._conversation, self.arm, self._sampling, self.outcome, span, self._whole
                    )
                    async with aclosing(answer):
                        async for piece in answer:
                            if self._pieces == 0:
                                self._seconds.first = time.monotonic() - self._started
                            self._pieces += 1
                            reply = self.replies.get(piece.choice) or self.replies.setdefault(piece.choice, Reply())
                            reply.add(piece)
                            yield piece
            status = "answered"
        except Exception:
            status = "failed"
            raise
        finally:
            if self._assistant is not None:
                self._record(self._assistant, status)

    def extension(self) -> dict[str, Any]:
        """How the answer was made, for the reply."""
        assistant, outcome, search = self._answered_by(), self.outcome, self.outcome.search
        assigned = self._assignment
        passages = [found.passage for found in search.found] if search and search.hit else []
        return {
            "route": outcome.route,
            "notice": assistant.policy.notice(outcome.route, outcome.language, outcome.reason),
            "reason": outcome.reason,
            "decision": search.decision if search else None,
            "passages": [
                {"path": each.path, "heading": each.label, "start": each.start, "end": each.end} for each in passages
            ],
            "citations": [asdict(citation) for citation in outcome.citations],
            "unsupported": outcome.unsupported,
            "dropped_citations": outcome.dropped_citations,
            "degraded": outcome.degraded,
            "adapter": assistant.adapter,
            "index": assistant.index.id,
            "release": assistant.release,
            "prompt": self.arm.prompt.id,
            "experiment": {"name": assigned.name, "arm": assigned.arm} if assigned and assigned.arm else None,
        }

    def usage(self) -> dict[str, Any]:
        """Tokens, in the shape of the OpenAI API."""
        used = self.outcome.usage
        told: dict[str, Any] = {
            "prompt_tokens": used.prompt_tokens,
            "completion_tokens": used.completion_tokens,
            "total_tokens": used.prompt_tokens + used.completion_tokens,
        }
        if used.cached_tokens is not None:
            told["prompt_tokens_details"] = {"cached_tokens": used.cached_tokens}
        return told

    def _answered_by(self) -> Assistant:
        assert self._assistant is not None, "an answer was begun"
        return self._assistant

    def _record(self, assistant: Assistant, status: Status) -> None:
        outcome, service, caller, seconds = self.outcome, self._service, self._caller, self._seconds
        seconds.search, seconds.total = outcome.search_s, time.monotonic() - self._started
        usage = outcome.usage
        if status != "answered" and not usage.completion_tokens:
            # The engine says at the end only; whoever leaves before it has used about as much.
            usage.completion_tokens = self._pieces
            usage.prompt_tokens = sum(len(message.content) for message in outcome.conversation) // 4
        service.access.spend(caller.tenant, caller.address, usage.prompt_tokens + usage.completion_tokens)
        service.metrics.answered(outcome, self.model, status, seconds, self._pieces)
        assigned = self._assignment
        if assigned and assigned.arm:
            service.metrics.experiment_requests.labels(assigned.arm).inc()
        decision = outcome.search.decision if outcome.search else None
        _log.info(
            "%s %s tenant=%s route=%s reason=%s search=%s citations=%d unsupported=%d tokens=%d+%d "
            "ms: queue=%d search=%d first=%d total=%d",
            self.id,
            status,
            caller.tenant.name,
            outcome.route,
            outcome.reason,
            decision,
            len(outcome.citations),
            len(outcome.unsupported),
            usage.prompt_tokens,
            usage.completion_tokens,
            *(1000 * stage for stage in vars(seconds).values()),
        )
        said = [message.as_dict() for message in outcome.conversation if message.role != "system"]
        replies = [redacted(self.replies[choice].message()) for choice in sorted(self.replies)]
        if not replies and not (assigned and status == "failed"):  # an experiment counts what failed
            return
        if self.model == CANARY:  # no customer asked, and no night shall learn from its probes
            return
        service.state.record(
            Transcript(
                id=self.id,
                at=datetime.now(UTC),
                tenant=caller.tenant.name,
                customer=caller.customer,
                conversation=caller.conversation,
                lang=outcome.language,
                arm=self.model,
                route=outcome.route,
                reason=outcome.reason,
                release=assistant.release,
                messages=(*said, *replies[:1]),
                made={
                    **self.extension(),
                    "experiment": assigned and asdict(assigned),
                    "status": status,
                    "found": [found.passage.id for found in outcome.search.found] if outcome.search else [],
                    "usage": asdict(usage),
                    "asked": outcome.asked,
                    "sampling": outcome.sampling and asdict(outcome.sampling),
                    "answers_by": assistant.answers_by,
                    "others": replies[1:],
                    "ms": {stage: round(1000 * taken, 1) for stage, taken in vars(seconds).items()},
                },
            )
        )
