"""Conversations as the answers in them that may be learned from, redacted.

What the assistant itself said is never learned from as it stands: only where a person corrected it, or the customer
liked it and a person resolved the case.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from assistant.prompt import Message
from assistant.redaction import Redactor, redacted_value
from finetune.logs.conversations import Conversation
from finetune.turns import Source, Turn
from retrieval.files import content_id

WORST_RATING = 3
"""Conversations rated lower are not learned from."""
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")


def turns(conversation: Conversation, counts: Counter[str]) -> Iterator[Turn]:
    """The conversation's answers; `counts` is told what became of it, and of each personal value in it."""
    if conversation.resolved is False or (conversation.rating is not None and conversation.rating < WORST_RATING):
        counts["conversations: unresolved or rated badly"] += 1
        return
    counts["conversations: kept"] += 1
    redactor = Redactor()
    messages = _redacted(conversation.messages, conversation.correction, redactor)
    correction = messages.pop() if conversation.correction else None
    messages = _joined(messages)
    tools = tuple(redacted_value(dict(tool), redactor) for tool in conversation.tools)
    counts.update({f"redacted: {kind}": count for kind, count in redactor.counts.items()})
    answers = [i for i, message in enumerate(messages) if message.role == "assistant" and _asked(messages[:i])]
    source: Source = "agent"
    if conversation.origin == "assistant":
        counts["turns: the assistant's own, unverified"] += len(answers[:-1])
        answers = answers[-1:]
        if correction and answers:
            source = "correction"
            messages[answers[-1]] = correction
        elif conversation.thumb == "up" and conversation.resolved_by_person:
            source = "confirmed"
        else:
            counts["turns: the assistant's own, unverified"] += len(answers)
            return
    author = content_id(conversation.agent) if conversation.agent else None
    for i in answers:
        yield Turn(
            conversation=tuple(messages[:i]),
            answer=messages[i],
            place=conversation.place,
            at=conversation.at,
            author=author,
            source=source,
            tools=tools,
        )


def redacted_record(text: str) -> str:
    """A record that could not be read, for people to see its shape: without personal data, and without its digits.

    What it holds could not be told apart, and may have been cut in the middle of a number.
    """
    written = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)
    return re.sub(r"(<[A-Z]+_\d+>)|\d", lambda match: match[1] or "#", Redactor()(written))


def _asked(before: Sequence[Message]) -> bool:
    """Whether a customer's message or a tool's reply stands last: what there is to answer."""
    return bool(before) and before[-1].role in ("user", "tool") and any(m.role == "user" for m in before)


def _joined(messages: Sequence[Message]) -> list[Message]:
    """The messages, those that one side sent in a row as one."""
    found: list[Message] = []
    for message in messages:
        last = found[-1] if found else None
        if last and last.role == message.role != "tool" and not last.tool_calls:
            found[-1] = replace(message, content=f"{last.content}\n{message.content}".strip())
        else:
            found.append(message)
    return found


def _redacted(messages: Sequence[Message], correction: str | None, redactor: Redactor) -> list[Message]:
    """The messages without personal data, tool calls included, and the correction as one more."""
    said = [*messages, Message("assistant", correction)] if correction else list(messages)
    texts = redactor.conversation([message.content for message in said])
    ids: dict[str, str] = {}
    return [
        replace(
            message,
            content=text.strip(),
            reasoning=redactor(message.reasoning) if message.reasoning else "",
            tool_calls=tuple(_redacted_call(call, redactor, ids) for call in message.tool_calls),
            tool_call_id=_numbered(message.tool_call_id, ids) if message.tool_call_id else None,
        )
        for message, text in zip(said, texts, strict=True)
    ]


def _numbered(name: str, ids: dict[str, str]) -> str:
    """A call's id by its place in the conversation, since the one in the log may say anything."""
    return ids.setdefault(name, f"call_{len(ids) + 1}")


def _redacted_call(call: Mapping[str, Any], redactor: Redactor, ids: dict[str, str]) -> dict[str, Any]:
    """A call whose arguments hold no personal data, a number that is some as the text of its placeholder."""
    arguments = json.loads(call["function"].get("arguments") or "{}")
    written = json.dumps(redacted_value(arguments, redactor, private=True), ensure_ascii=False)
    function = {"name": redactor(call["function"]["name"]), "arguments": written}
    return {"id": _numbered(str(call.get("id")), ids), "type": "function", "function": function}
