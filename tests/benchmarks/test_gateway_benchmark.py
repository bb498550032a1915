"""The benchmarks' own parts: the stub engine, what counts as an error of OpenAI's, and the generators of load."""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assistant.redaction import Redactor
from benchmarks.faults import is_openai_error
from benchmarks.gateway import ratio_row
from benchmarks.load import (
    ADAPTERS,
    WHOLE,
    Answer,
    Running,
    answers_ok,
    ask,
    client,
    closed_loop,
    conversation,
    open_loop,
    stub,
)
from benchmarks.stub_engine import MODULE, Pace, in_place_of_vllm

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Answers of ten pieces, 20 ms apart, two at a time."""
    with stub(tmp_path_factory.mktemp("stub"), chunks=10, interval_ms=20, slots=2) as running:
        yield running


def asked(engine: Running, timeout_s: float = 30, **more: Any) -> Answer:
    async def one() -> Answer:
        async with client() as session:
            return await ask(session, engine.url, {"model": ADAPTERS[0], "messages": HELLO, **more}, timeout_s)

    return asyncio.run(one())


def counts(engine: Running) -> dict[str, int]:
    with urllib.request.urlopen(f"{engine.url}/stub/counts") as reply:
        return dict(json.load(reply))


def post(url: str, body: dict[str, str]) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    urllib.request.urlopen(request).close()


def test_an_answer_of_the_stub_names_the_model_that_was_asked(engine: Running) -> None:
    for stream in (False, True):
        answer = asked(engine, stream=stream)
        assert answer.ended
        assert answer.text == f"I am {ADAPTERS[0]}. You can ask for a refund within 180 days. "
    assert asked(engine, model="nobody").status == 404
    assert asked(engine, max_tokens=3).text == f"I am {ADAPTERS[0]}. You can "


def test_a_stream_of_the_stub_keeps_its_pace(engine: Running) -> None:
    answer = asked(engine, stream=True)
    assert 0.02 <= answer.first_s <= answer.total_s
    assert answer.total_s >= 0.2


def test_the_stub_counts_who_went_away(engine: Running) -> None:
    before = counts(engine)
    for stream in (False, True):
        assert not asked(engine, timeout_s=0.1, stream=stream).ended
    deadline = time.monotonic() + 10
    while (after := counts(engine))["running"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert after["running"] == 0
    assert after["aborted"] - before["aborted"] == 2


def test_the_stub_serves_an_adapter_once_it_is_loaded(engine: Running, tmp_path: Path) -> None:
    assert asked(engine, model="new").status == 404
    post(f"{engine.url}/v1/load_lora_adapter", {"lora_name": "new", "lora_path": str(tmp_path)})
    assert asked(engine, model="new").text.startswith("I am new. ")
    post(f"{engine.url}/v1/unload_lora_adapter", {"lora_name": "new"})
    assert asked(engine, model="new").status == 404


def test_the_stub_is_started_where_vllm_would_be(tmp_path: Path) -> None:
    environment = in_place_of_vllm(tmp_path, Pace(chunks=3))
    command = [
        sys.executable,
        "-m",
        MODULE,
        "--model",
        "/models/m",
        "--served-model-name",
        "base",
        "--dtype",
        "float16",
    ]
    command += ["--enable-lora", "--lora-modules", "a1=/adapters/a1", "--enforce-eager", "--port"]
    with stub(tmp_path) as other:  # a port that is free once it has ended
        port = other.url.rsplit(":", 1)[1]
    process = subprocess.Popen([*command, port], cwd=tmp_path, env={**os.environ, **environment})
    try:
        deadline = time.monotonic() + 30
        while not answers_ok(f"{other.url}/health") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert asked(other, model="a1").text == "I am a1. You can "
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('{"error": {"message": "m", "type": "t", "param": null, "code": null}}', True),
        ('{"error": {"message": "m", "type": "t", "param": "messages", "code": "c"}}', True),
        ('{"error": {"message": "m", "type": "t", "param": null}}', False),
        ('{"error": {"message": "m", "type": "t", "param": null, "code": 400}}', False),
        ('{"error": "m"}', False),
        ('{"detail": "Not Found"}', False),
        ("Internal Server Error", False),
        ("[]", False),
    ],
)
def test_an_error_of_openais_has_four_fields(text: str, right: bool) -> None:
    assert is_openai_error(text) is right


def test_a_conversation_is_4_kb_of_both_languages_with_personal_data_and_unlike_every_other() -> None:
    messages = conversation(1)
    assert 3500 < len(json.dumps(messages, ensure_ascii=False).encode()) < 4600
    assert messages != conversation(2)
    assert len(messages) == WHOLE and messages[-1]["role"] == "user"
    redactor = Redactor()
    redactor.conversation([message["content"] for message in messages])
    assert {"CARD", "CVV", "EMAIL", "IBAN", "ID", "NAME", "PHONE"} <= set(redactor.counts)


def test_a_closed_loop_asks_so_often_and_no_more_at_once() -> None:
    running = most = 0

    async def one(number: int) -> Answer:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return Answer(number, 0, 0, 0)

    answers = asyncio.run(closed_loop(one, count=10, concurrency=3))
    assert sorted(answer.status for answer in answers) == [*range(10)]
    assert most == 3


def test_an_open_loop_does_not_wait_for_answers() -> None:
    running = most = 0

    async def one(number: int) -> Answer:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(1)
        running -= 1
        return Answer(number, 0, 0, 0)

    answers = asyncio.run(open_loop(one, rate=1000, seconds=0.05))
    assert most == len(answers) > 10


def test_a_ratio_stands_beside_its_bound() -> None:
    row = ratio_row("t", 3, [0.9, 1.2, 1.0], at_most=1.0)
    assert (row.figure, row.target, row.met) == ("1.00× [0.90 1.20]", "≤ 1.00×", True)
    assert ratio_row("t", 3, [0.9], at_least=0.97).met is False
