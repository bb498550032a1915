"""What the chat service does when things break or too much is asked: counts and ratios beside what they should be.

    python -m benchmarks.faults --work DIR [--only overload|disconnects|kills|switches|sigterm] [--seconds 60]

The engine is benchmarks/stub_engine.py. For `kills` and `switches` the service starts it itself, in vLLM's place.
"""

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil

from assistant import releases
from benchmarks.load import (
    ADAPTERS,
    SEED,
    Answer,
    Home,
    Running,
    answers_ok,
    ask,
    assistant,
    body,
    client,
    closed_loop,
    conversation,
    make_home,
    open_loop,
    stub,
)
from benchmarks.retrieval import Row, table
from benchmarks.stub_engine import MODULE, Pace, in_place_of_vllm
from retrieval.errors import SupportError

SLOTS = 16
CHUNKS, INTERVAL_MS = 20, 25.0
"""An answer takes half a second, so that the engine ends 32 a second: what is short is the engine, not this machine."""
TIMES_TOO_MUCH = 10
CLIENTS = 8
"""Asking one after another, while engines are killed and releases switched."""
HUNG_S = 30
PACE = Pace(CHUNKS, INTERVAL_MS, SLOTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where models, indexes and logs go")
    parser.add_argument("--only", choices=list(PARTS), action="append", help="this part (may be repeated)")
    parser.add_argument("--seconds", type=float, default=60, help="of overload (default: 60)")
    parser.add_argument("--disconnects", type=int, default=1000, help="clients that go away (default: 1000)")
    parser.add_argument("--kills", type=int, default=50, help="of the engine (default: 50)")
    parser.add_argument("--switches", type=int, default=200, help="of the release (default: 200)")
    options = parser.parse_args()
    try:
        home = make_home(options.work, passages=100)
        for name in options.only or PARTS:
            print(table(list(PARTS[name](home, options))), flush=True)
    except SupportError as error:
        sys.exit(f"benchmarks.faults: {error}")


def overload(home: Home, options: argparse.Namespace) -> Iterator[Row]:
    """Ten times what the engine can answer, for a minute: it answers as much as before, and the rest is told so."""
    with _stub(options) as engine, _assistant(home, engine.url) as ours:
        peak, answers, memory = asyncio.run(_overloaded(ours, options.seconds))
    late = max(answer.started for answer in answers)
    answered = [answer for answer in answers if answer.status == 200 and answer.ended]
    in_time = [answer for answer in answered if answer.started + answer.total_s <= late]
    goodput = len(in_time) / options.seconds / peak
    task = f"goodput at {TIMES_TOO_MUCH}× the load, against the peak ({peak:.0f}/s)"
    yield Row(task, len(answers), f"{goodput:.0%}", "≥ 90%", goodput >= 0.9)

    growth = float(np.median(memory[-len(memory) // 4 :]) / np.median(memory[len(memory) // 4 : len(memory) // 2]))
    task = f"memory, last quarter against the second ({memory[-1]:.0f} MiB)"
    yield Row(task, len(memory), f"{growth:.2f}×", "≤ 1.05×", growth <= 1.05)

    rejected = [answer for answer in answers if answer.status != 200]
    well_formed = sum(is_openai_error(answer.body) and _says_when(answer) for answer in rejected)
    shown = f"{well_formed:,} of {len(rejected):,}"
    met = bool(rejected) and well_formed == len(rejected)
    yield Row("rejections in OpenAI's shape with Retry-After", len(rejected), shown, "all", met)
    if statuses := Counter(answer.status for answer in rejected):
        yield Row("  status (0: none came)", len(rejected), ", ".join(f"{k}: {n:,}" for k, n in statuses.items()))
        p50, p99 = np.percentile([1000 * answer.total_s for answer in rejected], [50, 99])
        yield Row("time of a rejection, p50 / p99", len(rejected), f"{p50:.1f} / {p99:.1f} ms", "< 10 ms", p99 < 10)


async def _overloaded(ours: Running, seconds: float) -> tuple[float, list[Answer], list[float]]:
    """The peak in answers a second, what became of each request under overload, and memory each second in MiB."""
    async with client() as session:

        def one(number: int) -> Awaitable[Answer]:
            return ask(session, ours.url, _asked(number, stream=bool(number % 2)), HUNG_S)

        began = time.monotonic()
        before = await closed_loop(one, count=16 * SLOTS, concurrency=SLOTS)
        peak = sum(answer.status == 200 for answer in before) / (time.monotonic() - began)
        memory: list[float] = []

        async def watch() -> None:
            while True:
                memory.append(ours.memory_mib)
                await asyncio.sleep(1)

        watching = asyncio.ensure_future(watch())
        answers = await open_loop(one, TIMES_TOO_MUCH * peak, seconds)
        watching.cancel()
        return peak, answers, memory


def is_openai_error(text: str) -> bool:
    """Whether `text` is an error as OpenAI writes it: {"error": {"message", "type", "param", "code"}}."""
    try:
        error = json.loads(text)["error"]
        return (
            set(error) == {"message", "type", "param", "code"}
            and isinstance(error["message"], str)
            and isinstance(error["type"], str)
            and isinstance(error["param"], str | None)
            and isinstance(error["code"], str | None)
        )
    except (ValueError, KeyError, TypeError):
        return False


def _says_when(answer: Answer) -> bool:
    return answer.retry_after is not None and answer.retry_after.isdigit()


def disconnects(home: Home, options: argparse.Namespace) -> Iterator[Row]:
    """Clients that go away at a random point of their answer: the engine stops writing for them."""
    with _stub(options) as engine, _assistant(home, engine.url) as ours:
        gone = asyncio.run(_gone(ours.url, options.disconnects))
        time.sleep(2 * CHUNKS * INTERVAL_MS / 1000)
        counts = _counts(engine.url)
        left, unread = counts["running"] + counts["waiting"], counts["finished"] - (options.disconnects - gone)
        yield Row("clients gone before their answer's end, requests left", gone, f"{left}", "0", left == 0)
        yield Row("  answers written to the end for nobody", gone, f"{unread}", "0", unread <= 0)
        yield Row("  requests that the engine stopped", gone, f"{counts['aborted']:,}")
        whole = asyncio.run(_some(ours.url, SLOTS))
        answered = sum(answer.status == 200 and answer.ended for answer in whole)
        yield Row("  answered after that", len(whole), f"{answered}", f"{len(whole)}", answered == len(whole))


async def _gone(url: str, count: int) -> int:
    """How many went away before their answer's end."""
    chance = random.Random(SEED)
    async with client() as session:

        async def one(number: int) -> Answer:
            patience_s = chance.uniform(0.01, 0.9 * CHUNKS * INTERVAL_MS / 1000)
            return await ask(session, url, _asked(number, stream=bool(number % 2)), patience_s)

        answers = await closed_loop(one, count, SLOTS)
    return sum(not answer.ended for answer in answers)


def kills(home: Home, options: argparse.Namespace) -> Iterator[Row]:
    """The supervised engine killed again and again under load."""
    with _assistant(home, None, **in_place_of_vllm(options.work / "stand-in", PACE)) as ours:
        back, answers, refusals = asyncio.run(_killed(ours, options.kills))
    hung = sum(answer.total_s >= HUNG_S for answer in answers)
    yield Row("engine killed, service ready again", options.kills, f"{len(back)}", "all", len(back) == options.kills)
    if back:
        yield Row("  after, median / worst", len(back), f"{np.median(back):.1f} / {max(back):.1f} s")
    yield Row("  clients that hung", len(answers), f"{hung}", "0", hung == 0)
    statuses = ", ".join(f"{status}: {n:,}" for status, n in Counter(a.status for a in answers).most_common())
    yield Row("  status (0: none came)", len(answers), statuses)
    unexpected = sum(answer.status not in (200, 503) for answer in [*answers, *refusals])
    yield Row("  other than 200 and 503", len(answers) + len(refusals), f"{unexpected}", "0", unexpected == 0)
    if refusals:
        p50, p99 = np.percentile([1000 * answer.total_s for answer in refusals], [50, 99])
        shown = f"{p50:.1f} / {p99:.1f} ms"
        yield Row("  503 while it is down, p50 / p99", len(refusals), shown, "< 50 ms", bool(p99 < 50))


async def _killed(ours: Running, count: int) -> tuple[list[float], list[Answer], list[Answer]]:
    """Seconds until ready after each kill, the answers under way meanwhile, and those to requests while it was down."""
    back: list[float] = []
    refusals: list[Answer] = []
    async with client() as session:

        async def kill() -> None:
            for number in range(count):
                await asyncio.sleep(0.5 + (number % 10) * INTERVAL_MS / 1000)
                _engine(ours.process).kill()
                began = time.monotonic()
                while not await asyncio.to_thread(answers_ok, f"{ours.url}/readyz"):
                    if time.monotonic() > began + HUNG_S:
                        return
                    probe = await ask(session, ours.url, _asked(number), HUNG_S)
                    if probe.status != 200:
                        refusals.append(probe)
                    await asyncio.sleep(0.05)
                back.append(time.monotonic() - began)

        answers = await _meanwhile(session, ours.url, kill, pause_s=0.05)
    return back, answers, refusals


def _engine(service: psutil.Process) -> psutil.Process:
    """The engine that `service` started and that still runs."""
    while True:
        for child in service.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if MODULE in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                    return child
        time.sleep(0.02)


def switches(home: Home, options: argparse.Namespace) -> Iterator[Row]:
    """The live release switched between two adapters under load: each answer is of the adapter that it names."""
    with _assistant(home, None, **in_place_of_vllm(options.work / "stand-in", PACE)) as ours:
        seconds, answers = asyncio.run(_switched(home, ours, options.switches))
    releases.publish(home.folder / "releases", adapter=ADAPTERS[0])
    met = len(seconds) == options.switches
    yield Row("release switched, seen by the service", options.switches, f"{len(seconds)}", "all", met)
    if seconds:
        yield Row("  after, median / worst", len(seconds), f"{np.median(seconds):.1f} / {max(seconds):.1f} s")
    failed = sum(answer.status != 200 or not answer.ended for answer in answers)
    wrong = sum(answer.status == 200 and not _says_its_adapter(answer) for answer in answers)
    yield Row("  answers failed", len(answers), f"{failed}", "0", failed == 0)
    yield Row("  answers of another adapter than they name", len(answers), f"{wrong}", "0", wrong == 0)
    shares = Counter(str(answer.extension.get("adapter")) for answer in answers if answer.status == 200)
    yield Row("  answers by adapter", len(answers), " / ".join(f"{shares[name]:,}" for name in ADAPTERS))


def _says_its_adapter(answer: Answer) -> bool:
    """The stub's answers begin with the name of the model that it was asked for."""
    return answer.text.startswith(f"I am {answer.extension.get('adapter')}. ")


async def _switched(home: Home, ours: Running, count: int) -> tuple[list[float], list[Answer]]:
    """Seconds until the service named each new release's adapter, and the answers meanwhile."""
    seconds: list[float] = []
    async with client() as session:

        async def switch() -> None:
            for number in range(1, count + 1):
                adapter = ADAPTERS[number % 2]
                releases.publish(home.folder / "releases", adapter=adapter)
                began = time.monotonic()
                while await asyncio.to_thread(serves, ours.url) != adapter:
                    if time.monotonic() > began + HUNG_S:
                        return
                    await asyncio.sleep(0.05)
                seconds.append(time.monotonic() - began)

        answers = await _meanwhile(session, ours.url, switch)
    return seconds, answers


def serves(url: str) -> str | None:
    """The adapter that the service says it serves; None while it is not ready."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as reply:
            return str(json.load(reply)["adapter"])
    except OSError:
        return None


def sigterm(home: Home, options: argparse.Namespace) -> Iterator[Row]:
    """SIGTERM under load: every stream that began ends as it should, and the process does."""
    with _stub(options) as engine, _assistant(home, engine.url) as ours:
        answers, seconds = asyncio.run(_terminated(ours))
    begun = [answer for answer in answers if answer.status == 200]
    cut = sum(not answer.ended for answer in begun)
    yield Row("SIGTERM, streams that had begun and were cut", len(begun), f"{cut}", "0", bool(begun) and cut == 0)
    yield Row("  requests not taken any more", len(answers) - len(begun), "")
    yield Row("  until the process ended", 1, f"{seconds:.1f} s", f"< {HUNG_S} s", seconds < HUNG_S)


async def _terminated(ours: Running) -> tuple[list[Answer], float]:
    async with client() as session:

        async def stop() -> None:
            await asyncio.sleep(2)
            ours.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(CHUNKS * INTERVAL_MS / 1000)

        answers = await _meanwhile(session, ours.url, stop, pause_s=0.05)
    began = time.monotonic()
    with contextlib.suppress(psutil.TimeoutExpired):
        await asyncio.to_thread(ours.process.wait, HUNG_S)
    return answers, CHUNKS * INTERVAL_MS / 1000 + time.monotonic() - began


async def _meanwhile(
    session: aiohttp.ClientSession, url: str, act: Callable[[], Awaitable[None]], pause_s: float = 0.0
) -> list[Answer]:
    """The answers of clients that ask one after another until `act` has ended; after a failure they wait `pause_s`."""
    acting = asyncio.ensure_future(act())
    answers: list[Answer] = []

    async def one_after_another(client_number: int) -> None:
        number = client_number
        while not acting.done():
            answers.append(await ask(session, url, _asked(number, stream=True), HUNG_S))
            if answers[-1].status != 200:
                await asyncio.sleep(pause_s)
            number += CLIENTS

    await asyncio.gather(*(one_after_another(number) for number in range(CLIENTS)))
    await acting
    return answers


async def _some(url: str, count: int) -> Sequence[Answer]:
    async with client() as session:
        return await closed_loop(lambda number: ask(session, url, _asked(number), HUNG_S), count, count)


def _asked(number: int, **more: Any) -> dict[str, Any]:
    return body("assistant:lora", conversation(number), **more)


def _counts(engine_url: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{engine_url}/stub/counts", timeout=10) as reply:
        return dict(json.load(reply))


def _stub(options: argparse.Namespace) -> contextlib.AbstractContextManager[Running]:
    return stub(options.work, CHUNKS, INTERVAL_MS, SLOTS)


def _assistant(home: Home, engine_url: str | None, **environment: str) -> contextlib.AbstractContextManager[Running]:
    return assistant(home, engine_url, ASSISTANT_ENGINE_CONCURRENCY=str(SLOTS), **environment)


PARTS: dict[str, Callable[[Home, argparse.Namespace], Iterator[Row]]] = {
    "overload": overload,
    "disconnects": disconnects,
    "kills": kills,
    "switches": switches,
    "sigterm": sigterm,
}

if __name__ == "__main__":
    main()
