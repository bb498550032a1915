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
from assistant.redaction import Redactor, json_value, redacted_value, without_private_fields
from finetune.logs.conversations import Conversation
from finetune.logs.shape import shape
from finetune.turns import Source, Turn
from retrieval.language import Language, language_of

WORST_RATING = 3
"""Conversations rated lower are not learned from."""
_SHOWN = 2000
"""Characters of a bad line."""
_UNVERIFIED = "the assistant's own, unverified"
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
_PERSON = "holder|customer|client|payee|payer|beneficiary|recipient|contact|owner"
_NAME = re.compile(
    rf"(?i)holder|^(full|display|account|{_PERSON})_?name$|^(payee|payer|beneficiary|recipient)$|姓名|户名|收款人"
)
"""Fields that hold names of people."""
_OF_A_PERSON = re.compile(rf"(?i)^({_PERSON})s?$")
"""Fields whose `name` is one."""
_ANNOUNCED: dict[Language, str] = {"en": "Account holder: {}", "zh": "户名: {}"}
"""What a `Redactor` learns a name from."""


def turns(conversation: Conversation, counts: Counter[str], authors: dict[str, str]) -> Iterator[Turn]:
    """The conversation's answers; `counts` is told what became of it, and of each personal value in it.

    `authors` numbers the agents of all conversations in order of appearance.
    """
    rating = conversation.rating
    badly = conversation.resolved is False or (rating is not None and rating < WORST_RATING)
    if badly and not conversation.correction:
        counts["conversations: unresolved or rated badly"] += 1
        return
    redactor = Redactor()
    messages = _redacted(_said(conversation.messages), conversation.correction, conversation.customer, redactor)
    correction = messages.pop() if conversation.correction else None
    messages = _joined(messages)
    answers = [i for i, message in enumerate(messages) if message.role == "assistant" and _asked(messages[:i])]
    if not answers:
        counts["conversations: nothing answered"] += 1
        return
    counts["conversations: kept"] += 1
    tools = tuple(redacted_value(dict(tool), redactor) for tool in conversation.tools)
    counts.update({f"redacted: {kind}": count for kind, count in redactor.counts.items()})
    own = conversation.origin == "assistant"
    *earlier, last = answers
    learned: dict[int, Source] = {}
    if own or badly:
        counts[f"turns: {_UNVERIFIED if own else 'unresolved or rated badly'}"] += len(earlier)
    else:
        learned = dict.fromkeys(earlier, "agent")
    if source := _source(conversation):
        learned[last] = source
    else:
        counts[f"turns: {_UNVERIFIED if own else 'disliked and not corrected'}"] += 1
    if correction:
        messages[last] = correction
    for i, source in learned.items():
        yield Turn(
            conversation=tuple(messages[:i]),
            answer=messages[i],
            place=conversation.place,
            at=conversation.at,
            author=_author(conversation.agent, authors),
            source=source,
            tools=tools,
        )


def _source(conversation: Conversation) -> Source | None:
    """Who stands behind the last answer; None if nobody does."""
    if conversation.correction:
        return "correction"
    if conversation.origin == "agent":
        return None if conversation.thumb == "down" else "agent"
    return "confirmed" if conversation.thumb == "up" and conversation.resolved_by_person else None


def _author(agent: str | None, authors: dict[str, str]) -> str | None:
    """The agent by number: names can be guessed from a hash by whoever has a list of the staff."""
    return authors.setdefault(agent, f"agent {len(authors) + 1}") if agent else None


def redacted_record(text: str) -> str:
    """A record that could not be read, for people to see its `shape`: without personal data, and without its digits.

    What it holds could not be told apart, and may have been cut in the middle of a number. Cut to 2,000 characters.
    """
    escaped = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), shape(text))
    written = escaped.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # an emoji is escaped as two halves
    return re.sub(r"(<[A-Z]+_\d+>)|\d", lambda match: match[1] or "#", Redactor()(written))[:_SHOWN]


def _said(messages: Sequence[Message]) -> list[Message]:
    """The messages without what the system noted between them: "Ticket assigned to Anna" answers nobody."""
    begun = next((i for i, message in enumerate(messages) if message.role != "system"), 0)
    return [message for i, message in enumerate(messages) if i < begun or message.role != "system"]


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


def _redacted(
    messages: Sequence[Message], correction: str | None, customer: str | None, redactor: Redactor
) -> list[Message]:
    """The messages without personal data, tool calls included, and the correction as one more.

    A name that the log states, as the `customer` or in a field of a tool's call or reply, goes wherever it is said.
    """
    said = [*messages, Message("assistant", correction)] if correction else list(messages)
    calls = [call["function"].get("arguments") or "" for message in said for call in message.tool_calls]
    stated: list[Any] = [{"customer_name": customer}, *(json_value(held) for held in calls)]
    for value in [*stated, *(json_value(message.content) for message in said)]:
        for name in dict.fromkeys(_names(value)):
            redactor.learn_names(_ANNOUNCED[language_of(name)].format(name))
    texts = redactor.conversation([without_private_fields(message.content, redactor) for message in said])
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


def _names(value: Any) -> list[str]:
    """The names of people in a JSON value, by the names of its fields; those in capitals as one writes them, too."""
    found = []
    waiting: list[tuple[str, Any]] = [("", value)]
    for field, held in waiting:
        if isinstance(held, dict):
            named = {str(key): each for key, each in held.items()}
            if _OF_A_PERSON.match(field) and "name" in named:
                named["full_name"] = named.pop("name")
            for first, last in (("first_name", "last_name"), ("firstName", "lastName")):
                if first in named and last in named:
                    named["full_name"] = f"{named[first]} {named[last]}"
            waiting += named.items()
        elif isinstance(held, list):
            waiting += [(field, each) for each in held]
        elif isinstance(held, str) and _NAME.search(field):
            found += [held, held.title()] if held.isupper() or held.islower() else [held]
    return found


def _numbered(name: str, ids: dict[str, str]) -> str:
    """A call's id by its place in the conversation, since the one in the log may say anything."""
    return ids.setdefault(name, f"call_{len(ids) + 1}")


def _redacted_call(call: Mapping[str, Any], redactor: Redactor, ids: dict[str, str]) -> dict[str, Any]:
    """A call whose arguments hold no personal data, a number that is some as the text of its placeholder."""
    arguments = json.loads(call["function"].get("arguments") or "{}")
    written = json.dumps(redacted_value(arguments, redactor, private=True), ensure_ascii=False)
    function = {"name": redactor(call["function"]["name"]), "arguments": written}
    return {"id": _numbered(str(call.get("id")), ids), "type": "function", "function": function}
