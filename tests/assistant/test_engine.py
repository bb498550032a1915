import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from assistant import engine_process
from assistant.engine import Engine, Piece, Sampling, Usage
from assistant.engine_process import EngineProcess, check_port, free_port
from assistant.prompt import Message, tokens_id
from assistant.settings import Settings
from retrieval.errors import EngineError, EngineUnavailable, InputError

QUESTION = [Message("user", "hello")]


class _StubEngine(BaseHTTPRequestHandler):
    """Answers each model name with one behaviour of a real engine."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["model"] == "too long":
            self._send(400, b'{"error": {"message": "maximum context length is 2048"}}')
        elif body["model"] == "unlucky":
            self._send(502, b"<html>bad gateway</html>")
        elif body["model"] == "no engine":
            self._send(200, b"<html>welcome</html>")
        elif body["model"] == "calls tools":
            calls = [{"id": name, "function": {"name": name, "arguments": "{}"}} for name in "fg"]
            reply = {"choices": [{"index": 0, "message": {"content": None, "tool_calls": calls}}]}
            self._send(200, json.dumps(reply).encode())
        elif body["model"] == "broken":
            self._send(500, b"not even JSON")
        elif body["model"] == "fails in mid-answer":
            self._send(
                200, b'data: {"choices": [{"delta": {"content": "He"}}]}\n\ndata: {"error": {"message": "boom"}}\n\n'
            )
        elif not body.get("stream"):
            reply = {
                "choices": [{"index": 0, "message": {"content": "Hello"}, "finish_reason": "length"}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}},
                "prompt_token_ids": [5, 6, 7],
            }
            self._send(200, json.dumps(reply).encode())
        else:
            chunks = [
                {"choices": [{"delta": {"content": "He"}}], "prompt_token_ids": [5, 6, 7]},
                {"choices": [{"delta": {"content": "llo"}, "finish_reason": "length"}]},
                {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
            ]
            lines = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
            self._send(200, f"{lines}data: [DONE]\n\n".encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _StubEngine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def streamed(url: str, model: str, usage: Usage | None = None, whole: bool = False, **bounds: float) -> str:
    async def read() -> str:
        engine = Engine(url, **bounds)
        try:
            pieces = engine.answer(model, QUESTION, Sampling(max_tokens=5), usage or Usage(), whole)
            return "".join([piece.text async for piece in pieces])
        finally:
            await engine.close()

    return asyncio.run(read())


def test_pieces_and_usage_of_a_stream(url: str) -> None:
    usage = Usage()
    assert streamed(url, "good", usage) == "Hello"
    assert (usage.prompt_tokens, usage.completion_tokens, usage.finish_reason) == (3, 2, "length")
    assert usage.prompt_tokens_id == tokens_id([5, 6, 7]) != tokens_id([5, 67])


@pytest.mark.parametrize(
    ("model", "error"), [("too long", InputError), ("no engine", EngineError), ("broken", EngineError), ("gone", None)]
)
def test_a_likelihood_that_an_engine_does_not_give_is_an_error_as_an_answer_is(
    url: str, model: str, error: type[Exception] | None
) -> None:
    """The first of its two questions stood outside: the service answered 500."""

    async def ask() -> None:
        engine = Engine(url if error else f"http://127.0.0.1:{free_port()}")
        try:
            await engine.likelihood(model, QUESTION, "hello")
        finally:
            await engine.close()

    with pytest.raises(error or EngineUnavailable):
        asyncio.run(ask())


def test_a_whole_answer_is_one_piece(url: str) -> None:
    usage = Usage()
    assert streamed(url, "good", usage, whole=True) == "Hello"
    assert (usage.completion_tokens, usage.finish_reason, usage.cached_tokens) == (2, "length", 1)
    assert usage.prompt_tokens_id == tokens_id([5, 6, 7])


def test_text_that_comes_at_once_is_passed_on_at_once(url: str) -> None:
    async def pieces() -> list[Piece]:
        engine = Engine(url)
        answer = engine.answer("good", QUESTION, Sampling(max_tokens=5), Usage())
        try:
            return [piece async for piece in answer]
        finally:
            await engine.close()

    assert asyncio.run(pieces()) == [Piece("Hello", finish_reason="length")]


@pytest.mark.parametrize("whole", [False, True])
def test_an_answer_that_takes_too_long_is_ended(url: str, whole: bool) -> None:
    with pytest.raises(EngineUnavailable):
        streamed(url, "good", whole=whole, answer_s=1e-9)


def test_an_engine_that_falls_silent_is_unavailable() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        with pytest.raises(EngineUnavailable, match="went away"):
            streamed(f"http://127.0.0.1:{listening.getsockname()[1]}", "good", silence_s=0.1)


def test_a_request_that_the_engine_refuses_is_the_callers_error(url: str) -> None:
    with pytest.raises(InputError, match="maximum context length is 2048"):
        streamed(url, "too long")


@pytest.mark.parametrize(("value", "reason"), [(2**64, "64-bit"), ("\ud800", "surrogates")])
def test_what_cannot_be_passed_on_is_the_callers_error(url: str, value: Any, reason: str) -> None:
    async def ask() -> None:
        sampling = Sampling(5, passed={"response_format": {"type": "json_schema", "maximum": value}})
        await anext(Engine(url).answer("good", QUESTION, sampling, Usage()))

    with pytest.raises(InputError, match=reason):
        asyncio.run(ask())


def test_an_engine_failure_names_the_status(url: str) -> None:
    with pytest.raises(EngineError, match="500: not even JSON"):
        streamed(url, "broken")


def test_what_passes_by_is_unavailable_and_what_no_engine_says_is_an_error(url: str) -> None:
    with pytest.raises(EngineUnavailable, match="the engine answered 502; try again"):
        streamed(url, "unlucky")
    with pytest.raises(EngineError, match="what no engine does"):
        streamed(url, "no engine", whole=True)


def test_calls_of_several_tools_in_a_whole_answer_stay_apart(url: str) -> None:
    async def pieces() -> list[Piece]:
        engine = Engine(url)
        try:
            return [piece async for piece in engine.answer("calls tools", QUESTION, Sampling(5), Usage(), True)]
        finally:
            await engine.close()

    (piece,) = asyncio.run(pieces())
    assert [(call["index"], call["id"]) for call in piece.tool_calls] == [(0, "f"), (1, "g")]


def test_customers_never_read_where_the_engine_is() -> None:
    with pytest.raises(EngineUnavailable) as caught:
        streamed(f"http://user:password@127.0.0.1:{free_port()}", "good")
    assert "password" not in str(caught.value) and "127.0.0.1" not in str(caught.value)


def test_a_failure_in_mid_answer_is_an_error_not_an_end(url: str) -> None:
    with pytest.raises(EngineError, match="boom"):
        streamed(url, "fails in mid-answer")


def test_an_engine_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(EngineUnavailable, match="went away"):
        streamed(f"http://127.0.0.1:{free_port()}", "good")


def test_a_taken_port_is_found_out_before_the_long_start() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"127.0.0.1:{port}.*take another --port"):
            check_port("127.0.0.1", port)


def test_an_engine_that_dies_at_start_says_why(tmp_path: Path) -> None:
    """The real vLLM, given a folder that holds no model."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"r": 8}')
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "no such architecture"}')
    settings = Settings(home=tmp_path)
    process = EngineProcess(settings, str(tmp_path / "model"), "a", tmp_path / "adapter", tmp_path / "engine.log")
    with pytest.raises(EngineError, match="ended with code 1 while starting") as caught:
        process.start()
    assert "no such architecture" in str(caught.value)
    assert str(tmp_path / "engine.log") in str(caught.value)
    assert not process.alive


# The child process, with a server of a few lines in place of vLLM.

SERVER = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"data": [{"id": name} for name in ("base", *sys.argv[2:])]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineProcess]:
    monkeypatch.setattr(engine_process, "_FIRST_PAUSE_S", 0.1)
    process = EngineProcess(Settings(home=tmp_path, engine_start_s=20), "m", "a", None, tmp_path / "engine.log")
    process._command = [sys.executable, "-c", SERVER, str(process.port)]
    monkeypatch.setattr(engine_process, "_cpu_arguments", list)
    yield process
    process.stop()


def test_an_engine_that_is_killed_is_started_again_and_not_ready_meanwhile(process: EngineProcess) -> None:
    async def run() -> None:
        restarts: list[int] = []
        watching = asyncio.create_task(process.watch(lambda: restarts.append(1)))
        for count in (1, 2):
            assert process.ready
            first = process._process
            assert first is not None
            os.killpg(first.pid, signal.SIGKILL)
            async with asyncio.timeout(20):
                while process.ready:
                    await asyncio.sleep(0.01)
                with pytest.raises(EngineUnavailable, match="the engine is starting"):
                    engine = Engine(process.url, is_ready=lambda: process.ready)
                    await anext(engine.answer("a", QUESTION, Sampling(5), Usage()))
                while not process.ready:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0)
            assert len(restarts) == count
        process.stop()
        await asyncio.wait_for(watching, 20)

    process.start()
    asyncio.run(run())
    assert not process.alive


def test_an_engine_that_cannot_start_again_is_tried_until_it_can(process: EngineProcess) -> None:
    async def run() -> None:
        watching = asyncio.create_task(process.watch())
        command, process._command = process._command, [sys.executable, "-c", "raise SystemExit('no memory')"]
        assert process._process is not None
        os.killpg(process._process.pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            while process.ready or not process._log.read_text().startswith("no memory"):
                await asyncio.sleep(0.01)
            process._command = command
            while not process.ready:
                await asyncio.sleep(0.01)
        process.stop()
        await asyncio.wait_for(watching, 20)

    process.start()
    asyncio.run(run())


def test_an_engine_does_not_outlive_a_service_that_is_killed(tmp_path: Path) -> None:
    """It went on holding its memory, and its port, until somebody found it."""
    script = f"""
import sys
from pathlib import Path
from assistant import engine_process
from assistant.engine_process import EngineProcess
from assistant.settings import Settings
engine_process._cpu_arguments = list
process = EngineProcess(Settings(home=Path({str(tmp_path)!r})), "m", "a", None, Path({str(tmp_path / "log")!r}))
process._command = [sys.executable, "-c", {SERVER!r}, str(process.port)]
process.start()
print(process.port, flush=True)
sys.stdin.read()
"""
    service = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert service.stdout is not None
    port = int(service.stdout.readline())
    service.kill()
    service.wait()
    deadline = time.monotonic() + 20
    with contextlib.suppress(OSError):
        while time.monotonic() < deadline:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            time.sleep(0.05)
        pytest.fail("the engine still listens")
