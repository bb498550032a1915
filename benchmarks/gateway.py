"""What the chat service costs beside the engine: ratios of one run, in turns, beside what they should reach.

    python -m benchmarks.gateway --work DIR [--only cpu|ttft|throughput|prefix] [--engine-url URL --adapter NAME]

Engine, service and load are three processes. Without `--engine-url` the engine is benchmarks/stub_engine.py. Figures
are medians over rounds; in brackets stand the lowest and the highest round. `prefix` needs a real engine.

`cpu` compares with the least that a gateway can do: a FastAPI route that passes bytes on with httpx, unread.
"""

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from assistant import prompt
from assistant.prompt import Message
from benchmarks.load import (
    ADAPTERS,
    SEED,
    TURNS,
    WHOLE,
    Answer,
    ask,
    assistant,
    body,
    client,
    closed_loop,
    conversation,
    make_home,
    open_loop,
    started,
    stub,
)
from benchmarks.retrieval import Row, table
from retrieval.errors import EngineError, SupportError

CONCURRENCY = 16
"""Requests at once, but for TTFT."""
RATE = 50.0
"""Requests a second while TTFT is measured."""
CONVERSATIONS = 24
"""With a real engine, which takes seconds for each."""
TTFT_TOKENS = 16
"""Length of an answer then: what is measured is its start."""


@dataclass(frozen=True)
class _Arm:
    """Whom to ask, what, and how often."""

    name: str
    url: str
    model: str
    messages: int
    """The last so many of a conversation."""
    rate: float
    """Requests a second."""
    at_most_ms: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="where models, indexes and logs go")
    parser.add_argument("--only", choices=list(PARTS), action="append", help="this part (may be repeated)")
    parser.add_argument("--engine-url", help="a real engine, for throughput and prefix")
    parser.add_argument("--adapter", default=ADAPTERS[0], help="the name of an adapter that it serves")
    parser.add_argument("--requests", type=int, default=400, help="of a round of cpu and throughput (default: 400)")
    parser.add_argument("--seconds", type=float, default=20, help="of a round of ttft (default: 20)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passages", type=int, default=10_000, help="that are searched (default: 10000)")
    parser.add_argument("--interval-ms", type=float, default=5, help="between the stub's pieces (default: 5)")
    parser.add_argument("--pass-through", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pass_through:
        _pass_through(options.pass_through, options.port)
        return
    if options.work is None:
        parser.error("--work is required")
    names = options.only or [name for name in PARTS if name != "prefix" or options.engine_url]
    try:
        for name in names:
            print(table(list(PARTS[name](options))), flush=True)
    except SupportError as error:
        sys.exit(f"benchmarks.gateway: {error}")


def _pass_through(engine_url: str, port: int) -> None:
    """Serve what a gateway costs at least."""
    import httpx
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.responses import Response, StreamingResponse

    app, client = FastAPI(), httpx.AsyncClient(base_url=engine_url, timeout=None)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = client.build_request(
            "POST", "/v1/chat/completions", content=await request.body(), headers={"Content-Type": "application/json"}
        )
        reply = await client.send(asked, stream=True)
        return StreamingResponse(reply.aiter_raw(), reply.status_code, media_type=reply.headers["Content-Type"])

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def cpu(options: argparse.Namespace) -> Iterator[Row]:
    """CPU time of a request in the service and in the pass-through, from the kernel's account of their processes."""
    home = make_home(options.work, passages=100)
    with stub(options.work, interval_ms=options.interval_ms) as engine, assistant(home, engine.url) as ours:
        command = [sys.executable, "-m", "benchmarks.gateway", "--pass-through", engine.url]
        with started(command, "/healthz", options.work / "pass-through.log") as least:
            for kind, stream in (("JSON", False), ("100-chunk stream", True)):
                ms: dict[str, list[float]] = {"ours": [], "least": []}
                for round_number in range(options.rounds + 1):
                    for name, server, model in (("ours", ours, "assistant:lora"), ("least", least, ADAPTERS[0])):
                        before = server.cpu_s
                        answers = asyncio.run(_closed(server.url, model, options.requests, stream))
                        _check(answers)
                        if round_number:  # the first warms both up
                            ms[name].append(1000 * (server.cpu_s - before) / options.requests)
                ratios = np.divide(ms["ours"], ms["least"])
                task = f"CPU, {kind} ({np.median(ms['ours']):.1f} / {np.median(ms['least']):.1f} ms)"
                yield ratio_row(task, len(ratios) * options.requests, ratios, at_most=1.0)


def ttft(options: argparse.Namespace) -> Iterator[Row]:
    """Time to the first text that the service adds, requests coming at random times whatever was answered before.

    A search with what was said before costs several times one with a question alone, so it is asked for less often.
    """
    home = make_home(options.work, options.passages)
    with stub(options.work, interval_ms=options.interval_ms) as engine, assistant(home, engine.url) as ours:
        searched = f"with retrieval of {home.passages:,} passages"
        arms = (
            _Arm("of the engine asked directly", engine.url, ADAPTERS[0], 1, RATE, None),
            _Arm("added without retrieval", ours.url, "assistant:lora", 1, RATE, 5.0),
            _Arm(f"added {searched}", ours.url, "assistant", 1, RATE, 25.0),
            _Arm("added in a 4 KB conversation, 5/s", ours.url, "assistant:lora", WHOLE, RATE / 10, 5.0),
            _Arm("added in it with retrieval, 5/s", ours.url, "assistant", WHOLE, RATE / 10, 25.0),
        )
        found: dict[str, list[tuple[float, float]]] = {arm.name: [] for arm in arms}
        for round_number in range(options.rounds):
            for arm in arms:
                answers = asyncio.run(_open(arm, options.seconds, round_number))
                p50, p99 = np.percentile([1000 * answer.first_s for answer in _check(answers)], [50, 99])
                found[arm.name].append((float(p50), float(p99)))
    direct = found[arms[0].name]
    for arm in arms:
        for column, what in enumerate(("p50", "p99")):
            ms = np.array(found[arm.name])[:, column]
            if arm.at_most_ms is None:
                yield Row(f"TTFT {arm.name}, {what}", len(ms), f"{np.median(ms):.1f} ms")
                continue
            added = ms - np.array(direct)[:, column]
            shown = f"{np.median(added):.1f} ms [{added.min():.1f} {added.max():.1f}]"
            met = bool(np.median(added) <= arm.at_most_ms)
            yield Row(f"TTFT {arm.name}, {what}", len(ms), shown, f"≤ {arm.at_most_ms:.0f} ms", met)


def throughput(options: argparse.Namespace) -> Iterator[Row]:
    """Answers a second, the same prompts through the service and straight to the engine."""
    home = make_home(options.work, 100, options.adapter)
    with contextlib.ExitStack() as stack:
        url = options.engine_url or stack.enter_context(stub(options.work, interval_ms=20, slots=CONCURRENCY)).url
        ours = stack.enter_context(assistant(home, url))
        ratios = []
        for round_number in range(options.rounds + 1):
            rates = []
            for server, model in ((ours.url, "assistant:lora"), (url, options.adapter)):
                began = time.perf_counter()
                answers = asyncio.run(_closed(server, model, options.requests, stream=True))
                rates.append(len(_check(answers)) / (time.perf_counter() - began))
            if round_number:
                ratios.append(rates[0] / rates[1])
        task = f"throughput of {'the engine' if options.engine_url else 'the stub'}, {CONCURRENCY} at once"
        yield ratio_row(task, len(ratios) * options.requests, ratios, at_least=0.97)


def prefix(options: argparse.Namespace) -> Iterator[Row]:
    """TTFT of first questions and of ones that follow, against the prompt tokens that the engine had not cached.

    A line fitted to the first questions, which are of several lengths, says what the later ones should take.
    """
    if options.engine_url is None:
        raise EngineError("prefix needs a real engine, which caches; give --engine-url and --adapter")
    home = make_home(options.work, 100, options.adapter)
    with assistant(home, options.engine_url) as ours:
        new: dict[str, list[int]] = {"cold": [], "warm": []}
        cached: dict[str, list[int]] = {"cold": [], "warm": []}
        times: dict[str, list[float]] = {"cold": [], "warm": []}
        streamed = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 24}
        for number in tqdm(range(CONVERSATIONS), desc="conversations"):
            words = TURNS[0][0].format(n=number).split()
            asked = [{"role": "user", "content": f"{number}: {' '.join(words[: 10 + 50 * (number % 4) // 3])}"}]
            for kind in times:
                answer = asyncio.run(_one(ours.url, body("assistant:lora", asked, **streamed)))
                _check([answer])
                had = answer.usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
                times[kind].append(1000 * answer.first_s)
                new[kind].append(answer.usage["prompt_tokens"] - had)
                cached[kind].append(had)
                asked = [*asked, {"role": "assistant", "content": answer.text}]
                asked.append({"role": "user", "content": "And how long does that take?"})
        slope, start = np.polyfit(new["cold"], times["cold"], 1)
        for kind, ms in times.items():
            tokens = f"{np.mean(new[kind]):.0f} new tokens, {np.mean(cached[kind]):.0f} cached"
            yield Row(f"TTFT {kind}, median ({tokens})", len(ms), f"{np.median(ms):.0f} ms")
        yield Row("  a new token takes", len(times["cold"]), f"{slope:.1f} ms, and each request {start:.0f} ms")
        ratios = np.divide(times["warm"], start + slope * np.array(new["warm"]))
        yield ratio_row("  warm against what the line says", len(ratios), ratios, at_most=1.15)


def ratio_row(
    task: str, n: int, ratios: Sequence[float] | Any, *, at_most: float | None = None, at_least: float | None = None
) -> Row:
    """The median of `ratios` with the lowest and the highest, beside a bound."""
    middle = float(np.median(ratios))
    shown = f"{middle:.2f}× [{min(ratios):.2f} {max(ratios):.2f}]"
    if at_most is not None:
        return Row(task, n, shown, f"≤ {at_most:.2f}×", middle <= at_most)
    if at_least is not None:
        return Row(task, n, shown, f"≥ {at_least:.2f}×", middle >= at_least)
    return Row(task, n, shown)


async def _one(url: str, asked: dict[str, Any]) -> Answer:
    async with client() as session:
        return await ask(session, url, asked)


async def _closed(url: str, model: str, count: int, stream: bool) -> list[Answer]:
    async with client() as session:
        return await closed_loop(lambda n: ask(session, url, _asked(model, n, stream=stream)), count, CONCURRENCY)


async def _open(arm: _Arm, seconds: float, round_number: int) -> list[Answer]:
    async with client() as session:

        def one(number: int) -> Awaitable[Answer]:
            number += 100_000 * round_number  # so that nobody is asked the same twice
            asked = _asked(arm.model, number, arm.messages, stream=True, max_tokens=TTFT_TOKENS)
            return ask(session, arm.url, asked)

        return await open_loop(one, arm.rate, seconds, SEED + round_number)


def _asked(model: str, number: int, messages: int = WHOLE, **more: Any) -> dict[str, Any]:
    """A request with the conversation of that number; an engine that is asked directly gets the service's prompt."""
    said = conversation(number)[-messages:]
    if not model.startswith("assistant"):
        built = prompt.build([Message(turn["role"], turn["content"]) for turn in said], [])  # type: ignore[arg-type]
        said = [{"role": message.role, "content": message.content} for message in built]
    return body(model, said, **more)


def _check(answers: list[Answer]) -> list[Answer]:
    """The answers, all of them whole and written by the engine.

    Raises:
        EngineError: One is not, so that the figures would not mean anything.
    """
    for answer in answers:
        if answer.status != 200 or not answer.ended:
            raise EngineError(f"a request failed with {answer.status} {answer.body[:300]}; see the logs under --work")
        if answer.extension.get("route", "adapter") not in ("adapter", "grounded"):
            raise EngineError(f"a question did not reach the engine: it got the route {answer.extension['route']}")
    return answers


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "cpu": cpu,
    "ttft": ttft,
    "throughput": throughput,
    "prefix": prefix,
}

if __name__ == "__main__":
    main()
