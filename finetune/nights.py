"""What nights came to: one file a night, which the report, the operations page and the metrics read.

ASSISTANT_HOME/nights/<id>/night.json
ASSISTANT_HOME/nights/checked            when a night last found nothing new
"""

import json
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from retrieval.errors import InputError
from retrieval.files import write_text

STEPS = ("index", "collect", "train", "evaluate", "measure", "gate", "canary")
Word = Literal["promoted", "kept", "failed", "waiting"]
"""How a night ended; `waiting`: the gate let the challenger through, and a person has to sign."""


@dataclass(frozen=True)
class Step:
    """What a step took."""

    name: str
    seconds: float
    cpu_s: float
    memory_bytes: int
    """Most that was held until its end."""


@dataclass(frozen=True)
class Ruling:
    """What a rule of the gate said."""

    rule: str
    metric: str
    number: float | None
    """The figure that decided: mean of the difference, or a rate; None where there was nothing to measure."""
    low: float | None
    high: float | None
    bound: float
    passed: bool
    reason: str
    """A sentence with the figures."""


@dataclass(frozen=True)
class Topic:
    """Questions that belong together."""

    label: str
    """Its most telling words."""
    count: int
    examples: list[str]


@dataclass(frozen=True)
class Night:
    id: str
    at: str
    """When it began, RFC 3339."""
    word: Word
    reasons: list[str]
    champion: str
    """Release that served before."""
    challenger: str | None = None
    """Release that was tried; None if it did not come so far."""
    adapter: str | None = None
    evaluation: str | None = None
    """Id under evaluations/."""
    rulings: list[Ruling] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """What became of the day's records: as data/counts.json of a training run, and `new`, `redacted`, `quarantined`.

    `engine_stopped_s`: seconds without an engine, where the night stopped it.
    """
    topics: list[Topic] = field(default_factory=list)
    misses: list[Topic] = field(default_factory=list)
    """Questions that no passage answered: what wants a new article."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Means of the release that serves after the night, by metric, on the frozen cases."""
    articles: dict[str, list[str]] = field(default_factory=dict)
    """`added`, `changed` and `removed` since the champion's index."""
    terms: str = ""
    """Names what its challenger was trained and judged by, the logs and articles left out."""


def write(nights: Path, night: Night) -> Path:
    """Write the night's file, whole or not at all; return it."""
    path = nights / night.id / "night.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(asdict(night), ensure_ascii=False, indent=1) + "\n")
    return path


def read(path: Path) -> Night:
    """
    Raises:
        InputError: The file is damaged.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Night).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(f"{path} is no night: {' '.join(str(error).split())[:200]}; remove it") from error


def read_all(nights: Path) -> list[Night]:
    """The nights that ended, oldest first; raises as `read` does."""
    return sorted((read(path) for path in nights.glob("*/night.json")), key=lambda night: night.at)


def write_checked(nights: Path, at: str) -> None:
    """Write that a night which began `at`, RFC 3339, found nothing new; whole or not at all."""
    write_text(nights / "checked", f"{at}\n")


def read_checked(nights: Path) -> datetime | None:
    """When a night last found nothing new; None if none did.

    Raises:
        InputError: The file is damaged.
    """
    path = nights / "checked"
    if not path.exists():
        return None
    try:
        return datetime.fromisoformat(path.read_text(encoding="utf-8").strip())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} holds no time: {' '.join(str(error).split())[:200]}; remove it") from error


def as_text(night: Night) -> str:
    """For the terminal: the word, why, the rules with their figures, and what the steps took."""
    lines = [f"{night.word}: night {night.id} of {night.at}", *(f"  {reason}" for reason in night.reasons)]
    lines.append(f"champion {night.champion}" + (f", challenger {night.challenger}" if night.challenger else ""))
    for ruling in night.rulings:
        lines.append(f"  {'passed' if ruling.passed else 'FAILED'}  {ruling.rule}: {ruling.reason}")
    changed = {kind: paths for kind, paths in night.articles.items() if paths}
    lines += [f"  articles {kind}: {len(paths)}, {', '.join(paths[:5])}" for kind, paths in changed.items()]
    lines += [f"  {count:6} {what}" for what, count in night.counts.items()]
    for step in night.steps:
        memory = step.memory_bytes / 2**30
        lines.append(f"  {step.name:10}{step.seconds:8.0f} s {step.cpu_s:8.0f} CPU s {memory:6.1f} GiB at most")
    return "\n".join(lines)
