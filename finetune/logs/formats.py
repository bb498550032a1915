"""One record of a log, in any of the formats that are read, as a conversation.

    messages        OpenAI: {"messages": [{"role": "user", "content": …}, …], "tools": […]}
    conversations   ShareGPT: {"conversations": [{"from": "human", "value": …}, …], "system": …, "tools": "[…]"}
    instruction     Alpaca: {"instruction": …, "input": …, "output": …, "history": [[…, …]], "system": …}

Each may have the fields of `_Line` beside them. A transcript of this assistant is a line with `messages` and `route`;
its last assistant message is the reply that the feedback is about:

    {"id": "…", "at": "2026-01-31T09:30:00Z", "messages": […], "route": "grounded", "release": "…",
     "feedback": {"thumb": "down", "reason": "…", "correction": "…"}, "resolved_by": "person"}
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from assistant.prompt import Message
from finetune.logs.conversations import BadLine, Conversation
from finetune.logs.messages import LoggedMessage, declared_tools, linked
from finetune.logs.records import Record
from finetune.logs.shape import quoted

_TIMES = ("%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d")
"""Beside ISO 8601: what Chinese Excel writes."""
_SINCE_1970 = re.compile(r"[0-9]{10}|[0-9]{13}")
_UNUSABLE = {
    "chosen": "a preference pair (chosen and rejected); only conversations and answers are learned from",
    "kto_tag": "an example for KTO (kto_tag); only conversations and answers are learned from",
    "images": "it has images; only text is learned from",
    "videos": "it has videos; only text is learned from",
    "audios": "it has audio; only text is learned from",
}


def conversation(record: Record) -> Conversation | BadLine:
    """The conversation that a record holds, or the reason why it holds none."""
    value = record.value
    if not isinstance(value, dict):
        return BadLine(record.place, f"line: not an object with messages but {quoted(record.text)}", record.text)
    for field, reason in _UNUSABLE.items():
        if value.get(field) or (field == "kto_tag" and field in value):
            return BadLine(record.place, reason, record.text)
    try:
        if "messages" not in value and "conversations" not in value and "instruction" in value:
            return _conversation(_Alpaca.model_validate(value).line(value), record.place)
        return _conversation(_Line.model_validate(value), record.place)
    except ValidationError as error:
        return BadLine(record.place, _reason(error, value), record.text)


def moment(value: object) -> datetime:
    """A time as logs write it: ISO 8601, 2026/1/31 9:30, or seconds or milliseconds since 1970. Without zone it is UTC.

    Raises:
        ValueError: It is none of these.
    """
    text = str(value).strip()
    at: datetime | None
    number = int(text) if isinstance(value, str) and _SINCE_1970.fullmatch(text) else value
    try:
        if isinstance(number, int | float) and not isinstance(number, bool):
            return datetime.fromtimestamp(number / (1000 if number > 1e11 else 1), UTC)
        # Of other digits alone ISO 8601 knows days only, and Python takes any digit for the T before a time.
        at = None if text.isdecimal() and len(text) != 8 else datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        at = next((at for form in _TIMES if (at := _parsed(text, form))), None)
    if at is None:
        raise ValueError(f"{quoted(text)} is no time; write it as 2026-01-31T09:30:00+08:00")
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _parsed(text: str, form: str) -> datetime | None:
    try:
        return datetime.strptime(text, form)
    except ValueError:
        return None


def _called(value: object) -> object:
    return value.get("name") if isinstance(value, dict) else value


_Person = Annotated[str | None, BeforeValidator(_called)]
"""A name or number, or an object with a `name`."""


class _Feedback(BaseModel):
    thumb: Literal["up", "down"] | None = None
    reason: str | None = None
    correction: str | None = None


class _Line(BaseModel):
    """A line of a log; only the messages are required, and fields that are not named here are ignored."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)

    messages: Annotated[list[LoggedMessage], Field(min_length=2)] = Field(
        validation_alias=AliasChoices("messages", "conversations")
    )
    system: str | None = None
    tools: Annotated[list[dict[str, Any]], BeforeValidator(declared_tools)] = []
    at: Annotated[datetime | None, BeforeValidator(lambda value: None if value is None else moment(value))] = None
    customer: _Person = None
    agent: _Person = None
    rating: int | None = Field(None, ge=1, le=5)
    resolved: bool | None = None
    origin: Literal["agent", "assistant"] | None = None
    route: str | None = None
    feedback: _Feedback | None = None
    resolved_by: Literal["person", "assistant"] | None = None


class _Alpaca(BaseModel):
    instruction: str
    input: str | None = None
    output: str
    history: list[tuple[str, str]] | None = None

    def line(self, value: Mapping[str, Any]) -> _Line:
        question = "\n".join(filter(None, [self.instruction, self.input]))
        turns = [*(self.history or ()), (question, self.output)]
        messages = [
            {"role": role, "content": content}
            for turn in turns
            for role, content in zip(("user", "assistant"), turn, strict=True)
        ]
        return _Line.model_validate({**value, "messages": messages})


def _conversation(line: _Line, place: str) -> Conversation:
    messages = linked(line.messages)
    if line.system and messages[0].role != "system":
        messages.insert(0, Message("system", line.system))
    feedback = line.feedback or _Feedback()
    return Conversation(
        place,
        tuple(messages),
        line.rating,
        line.resolved,
        tuple(line.tools),
        line.at,
        line.customer,
        line.agent,
        line.origin or ("agent" if line.route is None else "assistant"),
        feedback.thumb,
        feedback.correction or None,
        None if line.resolved_by is None else line.resolved_by == "person",
    )


def _reason(error: ValidationError, value: Mapping[str, Any]) -> str:
    """The first mistake: where it is and what it is."""
    first = error.errors(include_url=False)[0]
    if first["loc"] == ("messages",) and first["type"] == "missing":
        held = quoted(", ".join(map(str, value)) or "nothing")
        return f"messages: Field required, or conversations, or instruction and output; it has {held}"
    field = ".".join(str(part) for part in first["loc"]) or "line"
    return f"{field}: {first['msg'].removeprefix('Value error, ')}"
