"""Nights that stop the engine: a real service, and an engine process that is only quicker to start than vLLM."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from assistant.pause import asked, runs, stopped, stopped_s
from benchmarks.load import ADAPTERS, Answer, Home, Running, answers_ok, ask, assistant, client, make_home, started
from benchmarks.stub_engine import MODULE, Pace, in_place_of_vllm
from retrieval.errors import EngineError

QUESTION = "How many days do I have to request a refund?"
AT_ONCE = """
from functools import partial
from aiohttp import web
from benchmarks.stub_engine import main
web.run_app = partial(web.run_app, handle_signals=False)
main()
"""
NIGHT = """
import sys
from pathlib import Path
from assistant.pause import stopped
with stopped(Path(sys.argv[1]), "a test", 30):
    print("stopped", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Home:
    folder = tmp_path_factory.mktemp("pause")
    (folder / "models").symlink_to(models)
    article = folder / "home-10" / "knowledge" / "en" / "refund.md"
    article.parent.mkdir(parents=True)
    article.write_text("# Refunds\n\nYou can request a refund within 45 days of the payment.\n")
    return make_home(folder, 10)


@pytest.fixture(scope="module")
def environment(home: Home, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """In which the service starts an engine that writes for a second and, as vLLM does, ends at once when told to."""
    folder = tmp_path_factory.mktemp("stand-in")
    made = in_place_of_vllm(folder, Pace(chunks=20, interval_ms=50))
    folder.joinpath(*MODULE.split(".")).with_suffix(".py").write_text(AT_ONCE)
    return made


@pytest.fixture(scope="module")
def service(home: Home, environment: dict[str, str]) -> Iterator[Running]:
    with assistant(home, None, **environment) as running:
        yield running


def said(service: Running, model: str = "assistant", stream: bool = False) -> Answer:
    async def one() -> Answer:
        async with client() as session:
            return await ask(session, service.url, _asked(model, stream))

    return asyncio.run(one())


def _asked(model: str, stream: bool) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": QUESTION}], "stream": stream}


def engines(service: Running) -> list[psutil.Process]:
    found = []
    for child in service.process.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if MODULE in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


def within(seconds: float, true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not (came := true()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return came


def test_while_the_engine_is_stopped_passages_are_quoted_and_after_it_the_adapter_answers_again(
    service: Running, home: Home
) -> None:
    assert said(service).text.startswith(f"I am {ADAPTERS[0]}. ")
    with stopped(home.folder, "a test", 30) as stop:
        assert stop is not None and engines(service) == []
        for stream in (False, True):
            quoted = said(service, stream=stream)
            assert quoted.text.startswith("From our help centre:")
            assert "You can request a refund within 45 days of the payment. [1]" in quoted.text
            assert (quoted.extension["route"], quoted.extension["degraded"]) == ("quoted", ["engine"])
            refused = said(service, "assistant:lora", stream)  # with no passage to quote
            assert refused.status == 503 and "the model is being trained; try again in a while" in refused.body
        assert answers_ok(f"{service.url}/healthz") and not answers_ok(f"{service.url}/readyz")
    away_s = stopped_s(stop, 30)
    assert away_s is not None and 0 < away_s < 60
    assert within(5, lambda: answers_ok(f"{service.url}/readyz"))
    again = said(service)
    assert again.text.startswith(f"I am {ADAPTERS[0]}. ") and again.extension["degraded"] == []


def test_requests_under_way_are_answered_to_their_end_before_the_engine_stops(service: Running, home: Home) -> None:
    assert within(30, lambda: answers_ok(f"{service.url}/readyz"))

    def stop() -> None:
        with stopped(home.folder, "a test", 30):
            assert engines(service) == []

    async def two() -> list[Answer]:
        async with client() as session:
            asking = [asyncio.create_task(ask(session, service.url, _asked("assistant", s))) for s in (False, True)]
            await asyncio.sleep(0.5)
            await asyncio.to_thread(stop)
            return await asyncio.gather(*asking)

    for answer in asyncio.run(two()):
        assert answer.ended and answer.extension["route"] == "grounded"
        assert answer.text.startswith(f"I am {ADAPTERS[0]}. ")


def test_a_night_that_is_killed_stops_nothing_any_more(service: Running, home: Home) -> None:
    assert within(30, lambda: answers_ok(f"{service.url}/readyz"))
    night = subprocess.Popen(
        [sys.executable, "-c", NIGHT, str(home.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert night.stdout is not None and night.stdout.readline() == "stopped\n"
    assert asked(home.folder) and engines(service) == []
    night.kill()
    night.wait()
    assert not asked(home.folder)
    assert within(30, lambda: answers_ok(f"{service.url}/readyz"))
    assert said(service).text.startswith(f"I am {ADAPTERS[0]}. ")


def test_a_service_that_starts_meanwhile_quotes_until_the_night_ends(home: Home, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "assistant.cli", "serve", "--base", home.base]
    given = {"ASSISTANT_HOME": str(home.folder), **environment}
    with contextlib.ExitStack() as stack:
        with stopped(home.folder, "a test", 30):
            other = stack.enter_context(started(command, "/healthz", home.folder / "logs" / "other.log", given))
            assert said(other).extension["route"] == "quoted" and engines(other) == []
        assert within(30, lambda: answers_ok(f"{other.url}/readyz"))
        assert said(other).extension["route"] == "grounded"


def test_the_file_says_who_and_why(tmp_path: Path) -> None:
    assert not asked(tmp_path)
    with stopped(tmp_path, "night 1", 1) as stop:
        told = json.loads((tmp_path / "engine-paused").read_text())
        assert (told["process"], told["why"]) == (os.getpid(), "night 1") and told["since"].endswith("Z")
        assert stop is None and asked(tmp_path)
    assert not asked(tmp_path)


def test_an_engine_that_does_not_stop_is_named_and_waited_for_no_longer(tmp_path: Path) -> None:
    told = r"still runs 0.1 s after it was asked to stop.*engine-runs"
    with runs(tmp_path), pytest.raises(EngineError, match=told), stopped(tmp_path, "night 1", 0.1):
        pytest.fail("the engine runs")
    assert not asked(tmp_path)
