"""What reading logs gives: a conversation, or the reason why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from assistant.prompt import Message


@dataclass(frozen=True)
class Conversation:
    place: str
    """file:line."""
    messages: tuple[Message, ...]
    rating: int | None = None
    """1 to 5, from the customer."""
    resolved: bool | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    """Tools that the conversation declares, each `{"type": "function", "function": {"name", …}}`."""
    at: datetime | None = None
    """With a time zone."""
    customer: str | None = None
    """Their name or number, as the log gives it."""
    agent: str | None = None
    """Who wrote the answers, as the log names them."""
    origin: Literal["agent", "assistant"] = "agent"
    """Who wrote the answers: a person, or this assistant."""
    thumb: Literal["up", "down"] | None = None
    """What the customer thought of the last answer."""
    correction: str | None = None
    """What the last answer should have been, from a person."""
    resolved_by_person: bool | None = None
    rows: int = 1
    """Lines, list items or table rows that it was read from."""


@dataclass(frozen=True)
class BadLine:
    """A record that is no conversation. Not redacted, but for what the reason quotes of it."""

    place: str
    """file:line."""
    reason: str
    text: str
    """The record, cut to 8,000 characters; that of a table as JSON."""
    rows: int = 1
    """Lines, list items or table rows that it was read from."""
    lost: Literal["conversation", "rows", "file"] = "conversation"
    """What it is: rows by themselves if they belong to a conversation that is counted already, or to none known."""

    @property
    def counts(self) -> dict[str, int]:
        """What it adds to the counts of a run."""
        if self.lost == "file":
            return {"files: not read": 1}
        return {"rows: malformed": self.rows} if self.lost == "rows" else {"conversations: malformed": 1}
