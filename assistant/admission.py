"""How many requests run at once and how many may wait; the rest are turned away at once."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from retrieval.errors import Overloaded

_MEMORY = 0.1
"""Weight of the last answer in the mean time of an answer."""
_LONGEST_RETRY_S = 60


class Admission:
    """Gives turns, first come, first served."""

    def __init__(self, running: int, waiting: int, wait_s: float) -> None:
        """`running` requests at once, `waiting` more, each for `wait_s` at most."""
        self.running = 0
        self.waiting = 0
        self._turns = asyncio.Semaphore(running)
        self._most_running = running
        self._most_waiting = waiting
        self._wait_s = wait_s
        self._answer_s = 1.0
        """Running mean of the time between getting a turn and giving it back."""

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[float]:
        """A turn, for as long as the block runs; its value is how long it was waited for, in seconds.

        Raises:
            Overloaded: Too many wait already, or the wait took too long.
        """
        if self._turns.locked() and self.waiting >= self._most_waiting:
            raise self._overloaded(f"{self.waiting} requests are waiting already")
        asked = time.monotonic()
        self.waiting += 1
        try:
            await asyncio.wait_for(self._turns.acquire(), self._wait_s)
        except TimeoutError:
            raise self._overloaded(f"no turn came within {self._wait_s:g} s") from None
        finally:
            self.waiting -= 1
        began = time.monotonic()
        self.running += 1
        try:
            yield began - asked
        finally:
            self.running -= 1
            self._turns.release()
            self._answer_s += _MEMORY * (time.monotonic() - began - self._answer_s)

    def _overloaded(self, why: str) -> Overloaded:
        turns_ahead = self.waiting / max(1, self._most_running) + 1
        retry_s = min(_LONGEST_RETRY_S, math.ceil(turns_ahead * self._answer_s))
        return Overloaded(f"the assistant is busy: {why}; try again in {retry_s} s", retry_s)
