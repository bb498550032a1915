"""Evaluation cases: a question and what is known of its right answer, one JSON object a line."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from retrieval.errors import InputError


class CaseMessage(BaseModel):
    role: Literal["user", "assistant"]
    content: str


class Case(BaseModel):
    """One case; only `query` or `messages` is required, and fields it does not name are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str = ""
    query: str | None = None
    messages: tuple[CaseMessage, ...] = ()
    lang: Literal["en", "zh"] | None = None
    scope: Literal["in", "near", "far"] = "in"
    relevant: tuple[str, ...] = Field(
        default=(),
        description="Paths under the knowledge folder of the documents that answer; an entry of a list is `FILE#ID`, "
        "and `FILE` any of its entries. None: out of scope for retrieval, near or far by `scope` (`in` counts as far).",
    )
    reference: str | None = None
    facts: tuple[str, ...] = Field(default=(), description="Strings that a right answer holds.")
    forbidden: tuple[str, ...] = Field(default=(), description="Strings that no right answer holds.")
    answerable: bool | None = Field(default=True, description="An article answers it; null where nobody knows.")
    route: str | None = Field(default=None, description="The route that is right, where only one is.")
    slice: str | None = Field(default=None, description="What the case tries: `hit`, `trap`, `multi-turn`, …")
    topic: str | None = None
    group: str | None = Field(default=None, description="Cases of one group are not independent of each other.")
    held_out: str | None = Field(default=None, description="What of it no training saw: its wording, or its policy.")

    @model_validator(mode="after")
    def _asks(self) -> "Case":
        if not self.query and not any(message.role == "user" for message in self.messages):
            raise ValueError("neither 'query' nor 'messages' with one of a user is given")
        return self

    @property
    def cluster(self) -> str:
        """What it is not independent of: its group, or itself alone."""
        return self.group or self.id

    def conversation(self) -> list[dict[str, str]]:
        if self.query:
            return [{"role": "user", "content": self.query}]
        return [message.model_dump() for message in self.messages]


def read_cases(
    paths: Path | Sequence[Path], lang: str | None = None, limit: int | None = None, seed: int = 7
) -> list[Case]:
    """The cases of a file, or of several; those in `lang` only if given; `limit` draws that many, seeded.

    Raises:
        InputError: A file cannot be read, a line is no case, two cases have one id, or no case is left.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    found = {path: _read(path) for path in files}
    places: dict[str, str] = {}
    for path, read in found.items():
        for number, case in read:
            if case.id in places:
                raise InputError(f"{path}:{number}: id {case.id!r} is that of {places[case.id]} too; give it another")
            places[case.id] = f"{path}:{number}"
    cases = [case for read in found.values() for _, case in read if lang in (None, case.lang)]
    if not cases:
        raise InputError(f"case file {', '.join(map(str, files))} holds no case" + (f" in {lang}" if lang else ""))
    if limit is not None and limit < len(cases):
        kept = sorted(random.Random(seed).sample(range(len(cases)), limit))
        cases = [cases[i] for i in kept]
    return cases


def _read(path: Path) -> list[tuple[int, Case]]:
    """The cases with their line numbers."""
    try:
        with path.open(encoding="utf-8") as file:
            return [(number, _parse(line, path, number)) for number, line in enumerate(file, 1) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"case file {path} cannot be read: {reason}") from error


def _parse(line: str, path: Path, number: int) -> Case:
    try:
        case = Case.model_validate(json.loads(line))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "case"
        raise InputError(f"{path}:{number}: {field}: {first['msg']}") from None
    except ValueError as error:
        raise InputError(f"{path}:{number}: not JSON: {error}") from None
    return case if case.id else case.model_copy(update={"id": f"{path.name}:{number}"})
