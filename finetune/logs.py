"""Support logs in: one conversation a line, checked; a line that is wrong is set aside with its reason."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from assistant.prompt import Message
from retrieval.errors import InputError


class _LoggedMessage(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: Annotated[str, StringConstraints(max_length=20_000)]


class _LogLine(BaseModel):
    """The log format; only `messages` is required, and fields it does not name are ignored."""

    model_config = ConfigDict(extra="ignore")

    id: str | None = None
    at: str | None = None
    lang: str | None = None
    rating: int | None = Field(None, ge=1, le=5)
    resolved: bool | None = None
    messages: Annotated[list[_LoggedMessage], Field(min_length=2)]


@dataclass(frozen=True)
class Conversation:
    place: str
    """file:line."""
    messages: tuple[Message, ...]
    rating: int | None
    """1 to 5, from the customer."""
    resolved: bool | None


@dataclass(frozen=True)
class BadLine:
    place: str
    """file:line."""
    reason: str
    text: str
    """The line, cut to 2,000 characters."""


def read_logs(paths: Iterable[Path]) -> Iterator[Conversation | BadLine]:
    """Every line of every file, in order, as a conversation or as the reason why it is none.

    Raises:
        InputError: A path does not exist or cannot be read.
    """
    for path in _files(paths):
        try:
            with path.open("rb") as file:
                for number, raw in enumerate(file, 1):
                    if raw.strip():
                        yield _parse(raw, f"{path}:{number}")
        except OSError as error:
            raise InputError(f"log file {path} cannot be read: {error.strerror}") from error


def log_files(paths: Iterable[Path]) -> list[Path]:
    """The log files that `paths` name, those of a folder sorted.

    Raises:
        InputError: A path does not exist, or a folder holds no log.
    """
    return list(_files(paths))


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            found = sorted(path.glob("*.jsonl"))
            if not found:
                raise InputError(f"log folder {path} holds no .jsonl file")
            yield from found
        elif path.exists():
            yield path
        else:
            raise InputError(f"log file {path} does not exist")


def _parse(raw: bytes, place: str) -> Conversation | BadLine:
    try:
        line = _LogLine.model_validate(json.loads(raw))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "line"
        return BadLine(place, f"{field}: {first['msg']}", _shown(raw))
    except (ValueError, RecursionError) as error:
        return BadLine(place, f"not JSON: {error}", _shown(raw))
    messages = tuple(Message(message.role, message.content) for message in line.messages)
    return Conversation(place, messages, line.rating, line.resolved)


def _shown(raw: Any) -> str:
    return str(raw.decode("utf-8", "replace").rstrip("\n")[:2000])
