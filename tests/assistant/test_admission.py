import asyncio
import time

import pytest

from assistant.admission import Admission
from retrieval.errors import Overloaded


def test_turns_are_given_first_come_first_served() -> None:
    async def run() -> list[int]:
        admission, order = Admission(running=1, waiting=9, wait_s=5), []

        async def request(number: int) -> None:
            async with admission.turn():
                order.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*(request(number) for number in range(5)))
        assert (admission.running, admission.waiting) == (0, 0)
        return order

    assert asyncio.run(run()) == [0, 1, 2, 3, 4]


def test_whoever_finds_the_queue_full_is_turned_away_at_once() -> None:
    async def run() -> None:
        admission = Admission(running=1, waiting=1, wait_s=5)
        async with admission.turn() as waited_s:
            assert waited_s < 0.1
            waiting = asyncio.create_task(_one_turn(admission))
            await asyncio.sleep(0)
            started = time.monotonic()
            with pytest.raises(Overloaded, match="1 requests are waiting already") as refused:
                await _one_turn(admission)
            assert time.monotonic() - started < 1
            assert 1 <= refused.value.retry_after_s <= 60
        await waiting

    asyncio.run(run())


def test_a_wait_ends_in_time_and_leaves_no_trace() -> None:
    async def run() -> None:
        admission = Admission(running=1, waiting=1, wait_s=0.01)
        async with admission.turn():
            with pytest.raises(Overloaded, match="no turn came"):
                await _one_turn(admission)
            assert (admission.running, admission.waiting) == (1, 0)
        await _one_turn(admission)

    asyncio.run(run())


def test_a_caller_who_leaves_the_queue_leaves_its_place_to_the_next() -> None:
    async def run() -> None:
        admission = Admission(running=1, waiting=1, wait_s=5)
        async with admission.turn():
            left = asyncio.create_task(_one_turn(admission))
            await asyncio.sleep(0)
            left.cancel()
            await asyncio.sleep(0.05)
            next_one = asyncio.create_task(_one_turn(admission))
            await asyncio.sleep(0)
            assert admission.waiting == 1
        await next_one
        assert (admission.running, admission.waiting) == (0, 0)

    asyncio.run(run())


async def _one_turn(admission: Admission) -> None:
    async with admission.turn():
        pass
