"""One answer to learn from, and what was set aside: the records that cleaning passes on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from assistant.prompt import Message

Source = Literal["agent", "correction", "confirmed"]
"""Who stands behind an answer: a person wrote it, a person corrected the assistant's, or a customer's thumb and a
person's resolution confirmed the assistant's."""


@dataclass(frozen=True)
class Turn:
    """A conversation up to a customer's message, and the answer to it. Redacted."""

    conversation: tuple[Message, ...]
    """Ends with the customer's message to answer, or with a tool's reply to the assistant's call."""
    answer: Message
    place: str
    """file:line."""
    at: datetime | None = None
    author: str | None = None
    """The agent, by a number: names stay out."""
    source: Source = "agent"
    tools: tuple[Mapping[str, Any], ...] = ()
    """Tools that the conversation declares, as JSON schemas of the OpenAI API."""

    @property
    def question(self) -> str:
        """The customer's last message."""
        return next(message.content for message in reversed(self.conversation) if message.role == "user")

    def as_dict(self) -> dict[str, Any]:
        """The turn as JSON holds it."""
        return asdict(self) | {"at": self.at.isoformat() if self.at else None}


def turn_of(shape: Mapping[str, Any]) -> Turn:
    """The turn that `as_dict` made this of."""
    *conversation, answer = (
        Message(**{**message, "tool_calls": tuple(message["tool_calls"])})
        for message in (*shape["conversation"], shape["answer"])
    )
    at = datetime.fromisoformat(shape["at"]) if shape["at"] else None
    changed = {"conversation": tuple(conversation), "answer": answer, "at": at, "tools": tuple(shape["tools"])}
    return Turn(**{**shape, **changed})


@dataclass(frozen=True)
class SetAside:
    """A line or turn that is not learned from, kept for people to look at. Redacted."""

    place: str
    """file:line."""
    reason: str
    text: str
    """The line or the answer, cut to 2,000 characters."""
