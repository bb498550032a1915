"""One accelerator for serving and training: a night asks the service's engine to stop, and waits until it is gone.

ASSISTANT_HOME/engine-paused   locked by a night as long as no engine shall run; since when, by which process, and why
ASSISTANT_HOME/engine-runs     locked by an engine as long as its process lives; touched when it begins to serve

Locks say what holds, not files: they end with the process that holds them, and a night that is killed pauses nothing.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from retrieval.errors import EngineError
from retrieval.files import storage_errors

_PAUSED, _RUNS = "engine-paused", "engine-runs"
_LOOK_S = 0.2


@dataclass
class Stop:
    """An engine that was stopped for a while."""

    home: Path
    asked_at: float
    """Seconds since 1970, as all times here: two processes compare them."""
    ended_at: float = 0.0
    """When it was allowed to start again."""


@contextlib.contextmanager
def stopped(home: Path, why: str, longest_s: float) -> Iterator[Stop | None]:
    """No engine of `home` runs as long as the block does; the value is None if none had run.

    Raises:
        EngineError: An engine still runs after `longest_s`.
    """
    with _locked(home / _PAUSED) as paused:
        said = {"since": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "process": os.getpid(), "why": why}
        with storage_errors(home / _PAUSED):
            paused.truncate(0)
            paused.write(json.dumps(said) + "\n")
            paused.flush()
        stop = Stop(home, time.time())
        ran = _wait_until_gone(home / _RUNS, longest_s)
        try:
            yield stop if ran else None
        finally:
            stop.ended_at = time.time()


def stopped_s(stop: Stop, longest_s: float) -> float | None:
    """Seconds from when the engine was asked to stop until it served again; None if it does not after `longest_s`."""
    while (serves_at := (stop.home / _RUNS).stat().st_mtime) <= stop.ended_at:
        if time.time() > stop.ended_at + longest_s:
            return None
        time.sleep(_LOOK_S)
    return serves_at - stop.asked_at


def asked(home: Path) -> bool:
    """No engine of `home` shall run now."""
    try:
        file = (home / _PAUSED).open()
    except OSError:  # nobody ever asked
        return False
    with file:
        return not _try(file, fcntl.LOCK_SH)


@contextlib.contextmanager
def runs(home: Path) -> Iterator[int]:
    """A file descriptor; an engine of `home` counts as running as long as any process that inherits it lives."""
    with storage_errors(home / _RUNS):
        file = (home / _RUNS).open("a")
    with file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield file.fileno()


def serves(home: Path) -> None:
    """Say that an engine of `home` begins to serve."""
    os.utime(home / _RUNS)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[TextIO]:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)  # services that look hold it for a moment
        yield file


def _wait_until_gone(path: Path, longest_s: float) -> bool:
    """Whether an engine ran."""
    latest, ran = time.monotonic() + longest_s, False
    with storage_errors(path):
        file = path.open("a")
    with file:
        while not _try(file, fcntl.LOCK_EX):
            ran = True
            if time.monotonic() > latest:
                raise EngineError(f"the engine still runs {longest_s:g} s after it was asked to stop, says {path}")
            time.sleep(_LOOK_S)
    return ran


def _try(file: TextIO, lock: int) -> bool:
    try:
        fcntl.flock(file, lock | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
