"""An experiment on customers: which of them are answered in which way, and which ways were stopped.

name: lora-2026-11
start: 2026-11-25T00:00:00+08:00    # before it, and after `end`, `assistant` is what it always was
end: 2026-12-09T00:00:00+08:00      # may be left out
salt: 8f1c                          # another one deals the customers anew
holdout: 0.1                        # share of customers who get `assistant` as it always is; by default none
arms:                               # the first is the control
  rag: {model: "assistant:rag@three-examples", share: 0.5}
  rag+lora: {model: "assistant:rag+lora", share: 0.5}
guardrails:                         # an arm that is surely above one is stopped: its customers get `assistant`
  thumbs_down: {most: 0.3}          # of the replies with a thumb
  handoff: {most: 0.4}              # of the conversations
  failed: {most: 0.05}              # of the requests
  total_ms: {most: 15000}           # the mean

The customer decides the arm; without one the conversation's id, and without that its first message. Who is held out is
recorded as in the arm `holdout`, which guardrails and comparisons leave alone. A conversation under way when the
experiment begins or ends, or when its arm is stopped, changes its way to answer; it is not counted. Whoever changes
arms or shares gives the experiment a new name. The file must stay for three days after the end, since customers who
come back are recorded by it.
"""

import asyncio
import hashlib
import hmac
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from assistant.prompt import Message
from assistant.state import State
from retrieval.errors import InputError
from retrieval.files import alone, write_text

Guardrail = Literal["thumbs_down", "handoff", "failed", "total_ms"]
_Name = Annotated[str, StringConstraints(pattern=r"^\w[\w.+-]*$", max_length=64)]
_ArmName = Annotated[str, StringConstraints(pattern=r"^\w[\w.+-]*$", max_length=16)]
HOLDOUT = "holdout"
"""Stands for an arm in what is recorded of those who get none."""
_REREAD_S = 1
_GUARD_S = 60.0
_GUARD_SHARE = 0.1
"""Of the time, at most, that the guardrails are being computed."""
_ABOUT_STOPS = (
    "# Arms that broke a guardrail. Without its entry an arm serves again within a second; with the same bound it is\n"
    "# soon stopped again, so raise the bound too.\n"
)
_log = logging.getLogger("assistant")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Arm(_Part):
    model: str
    share: float = Field(gt=0, le=1)


class Bound(_Part):
    most: float = Field(ge=0, allow_inf_nan=False)


class Experiment(_Part):
    name: _Name
    start: AwareDatetime
    end: AwareDatetime | None = None
    salt: str
    holdout: float = Field(0.0, ge=0, lt=1)
    arms: Annotated[dict[_ArmName, Arm], Field(min_length=2)]
    guardrails: dict[Guardrail, Bound] = {}

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        shares = sum(arm.share for arm in self.arms.values())
        if not math.isclose(shares, 1, abs_tol=1e-6):
            raise ValueError(f"the shares of the arms come to {shares:g}; make them 1")
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"end {self.end} is not after start {self.start}")
        if HOLDOUT in self.arms:
            raise ValueError(f"{HOLDOUT!r} is what those without an arm are recorded as; give the arm another name")
        return self

    @property
    def control(self) -> str:
        return next(iter(self.arms))

    def runs(self, at: datetime) -> bool:
        return self.start <= at and (self.end is None or at < self.end)


class Stop(_Part):
    """Why an arm serves no more."""

    experiment: _Name
    arm: _ArmName
    at: AwareDatetime
    guardrail: Guardrail
    mean: float
    low: float
    """End of the sequential interval; it lies above `most`."""
    most: float
    units: int


Guard = Callable[[State, Experiment], Sequence[Stop]]
"""Which arms break a guardrail now."""


@dataclass(frozen=True)
class Assignment:
    """What is recorded of an experiment with a request."""

    name: str
    arm: str | None
    """`HOLDOUT` of who is held out; None before the start, after the end, and where the arm is stopped or unknown."""
    unit: str
    """Hash of what decides the arm."""
    opening: str
    """Of the first message, by which a conversation without an id is known."""
    model: str
    """The way to answer."""


def assign(experiment: Experiment, unit: str) -> str | None:
    """The arm of a unit, always the same; None for the holdout.

    A larger holdout takes customers out and moves nobody between arms.
    """
    digest = hashlib.sha256("\0".join((experiment.salt, experiment.name, unit)).encode("utf-8", "replace")).digest()
    held, drawn = (int.from_bytes(digest[i : i + 8]) / 2**64 for i in (0, 8))
    if held < experiment.holdout:
        return None
    reached = 0.0
    for name, arm in experiment.arms.items():
        reached += arm.share
        if drawn < reached:
            return name
    return name  # the shares come to 1 but for rounding


def opening(tenant: str, messages: Sequence[Message], secret: bytes) -> str:
    """Names the first message of a tenant's customer, 16 hex digits, from which nobody without the secret finds it."""
    first = next(message.content for message in messages if message.role == "user")
    said = f"opening\0{tenant}\0{first}".encode("utf-8", "replace")
    return hmac.new(secret, said, hashlib.sha256).hexdigest()[:16]


class Experiments:
    """The experiment that a file describes now, followed while the service runs."""

    def __init__(self, path: Path, serves: Callable[[str], bool]) -> None:
        """Read `path`, and again when it or its stops change; without such a file there is no experiment.

        `serves` says whether a model can be asked for.

        Raises:
            InputError: The file, or that of its stops, is not what it should be.
        """
        self._path = path
        self._serves = serves
        self._stamps = self._seen()
        self._check_at = time.monotonic() + _REREAD_S
        self._unkept: tuple[Stop, ...] = ()
        """Stops that stand in no file: the disk refused. No edit of a file forgets them."""
        self._experiment, self._kept = self._read()

    def assignment(
        self, tenant: str, customer: str | None, conversation: str | None, opening: str
    ) -> Assignment | None:
        """How a request for `assistant` is answered; None where there is no experiment."""
        self._reread()
        experiment = self._experiment
        if experiment is None:
            return None
        unit = f"{tenant}\0{customer or conversation or opening}"
        arm = (assign(experiment, unit) or HOLDOUT) if experiment.runs(datetime.now(UTC)) else None
        if arm and (experiment.name, arm) in self._stopped():
            arm = None
        model = experiment.arms[arm].model if arm in experiment.arms else "assistant"
        return Assignment(experiment.name, arm, _hash(unit), opening, model)

    def stop(self, state: State, guard: Guard) -> None:
        """Stop the arms that break a guardrail, and keep that in the file of stops.

        Raises:
            StorageError: The disk refused. The arms are stopped all the same, until the service ends; the next call
                tries to keep that again.
        """
        experiment = self._experiment
        if experiment is None or not experiment.guardrails or not experiment.runs(datetime.now(UTC)):
            return
        stopped = self._stopped()
        broken = [stop for stop in guard(state, experiment) if (stop.experiment, stop.arm) not in stopped]
        self._unkept += tuple(broken)
        for stop in broken:
            _log.error(
                "arm %s of %s is stopped: %s is at least %.4g, and %.4g is allowed; see %s",
                *(stop.arm, stop.experiment, stop.guardrail, stop.low, stop.most, stops_path(self._path)),
            )
        if self._unkept:
            write_stops(self._path, self._unkept)
            self._kept, self._unkept = self._stopped(), ()

    def _stopped(self) -> frozenset[tuple[str, str]]:
        """Experiment and arm of every stop."""
        return self._kept | _names(self._unkept)

    def _reread(self) -> None:
        """Read the files again if they changed; keep what was read before if they cannot be."""
        if time.monotonic() < self._check_at:
            return
        self._check_at = time.monotonic() + _REREAD_S
        seen = self._seen()
        if seen == self._stamps:
            return
        self._stamps = seen
        try:
            before, (self._experiment, self._kept) = self._experiment, self._read()
        except InputError as error:
            _log.error("the experiment stays as it was: %s", error)
            return
        if self._experiment != before:
            _log.warning("the experiment is now: %s", self._experiment.name if self._experiment else "none")

    def _read(self) -> tuple[Experiment | None, frozenset[tuple[str, str]]]:
        if self._stamps[0] is None:
            return None, frozenset()
        experiment = read_experiment(self._path)
        for name, arm in experiment.arms.items():
            if not self._serves(arm.model):
                raise InputError(
                    f"experiment {self._path} entry 'arms.{name}.model': {arm.model!r} is no way to answer; "
                    "GET /v1/models lists them, each also with @ and the name of a prompt"
                )
        return experiment, _names(read_stops(self._path))

    def _seen(self) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
        return _stamp(self._path), _stamp(stops_path(self._path))


async def watch(look: Callable[[], None], what: str, every_s: float = _GUARD_S) -> None:
    """Have `look` stop what breaks a guardrail of `what`, again and again, until cancelled."""
    told = ""
    pause_s = every_s
    while True:
        await asyncio.sleep(pause_s)
        started = time.monotonic()
        try:
            await asyncio.to_thread(look)
            told = ""
        except Exception as error:  # whatever is wrong with the figures, customers go on being answered
            if str(error) != told:
                _log.error("the guardrails of %s are not watched for now: %s", what, error)
            told = str(error)
        pause_s = max(every_s, (time.monotonic() - started) / _GUARD_SHARE)


def read_experiment(path: Path) -> Experiment:
    """The experiment in `path`.

    Raises:
        InputError: The file cannot be read, or an entry of it is not what it should be.
    """
    try:
        return Experiment.model_validate(_load(path))
    except ValidationError as error:
        raise InputError(f"experiment {path} {_first(error)}; see assistant/experiment.py for the form") from None


def stops_path(path: Path) -> Path:
    """Where the stops of the experiment in `path` are kept: beside it."""
    return path.with_name(f"{path.stem}-stops.yaml")


def read_stops(path: Path) -> tuple[Stop, ...]:
    """The stops of the experiment in `path`, and of earlier ones in the same file.

    Raises:
        InputError: Their file cannot be read, or an entry of it is not what it should be.
    """
    kept = stops_path(path)
    if not kept.exists():
        return ()
    try:
        return TypeAdapter(tuple[Stop, ...]).validate_python(_load(kept) or ())
    except ValidationError as error:
        raise InputError(f"stops {kept} {_first(error)}; correct it, or delete the file to start all arms") from None


def write_stops(path: Path, stops: Sequence[Stop]) -> None:
    """Add stops to those of the experiment in `path`.

    Raises:
        InputError: Their file cannot be read.
        StorageError: The disk refused; the file is as before.
    """
    with alone(path.parent):
        entries = [stop.model_dump(mode="json") for stop in (*read_stops(path), *stops)]
        write_text(stops_path(path), _ABOUT_STOPS + yaml.safe_dump(entries, sort_keys=False, allow_unicode=True))


def _load(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or a date that does not exist
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    entry = ".".join(str(part) for part in first["loc"])
    return f"entry {entry!r}: {first['msg']}" if entry else f"is wrong: {first['msg']}"


def _names(stops: Iterable[Stop]) -> frozenset[tuple[str, str]]:
    return frozenset((stop.experiment, stop.arm) for stop in stops)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def _stamp(path: Path) -> tuple[int, int] | None:
    """Changes whenever the file does; None if there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino
