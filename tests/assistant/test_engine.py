import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from assistant.engine import Engine, EngineProcess, Sampling, Usage, check_port, free_port
from assistant.prompt import Message
from assistant.settings import Settings
from retrieval.errors import EngineError, EngineUnavailable, InputError

QUESTION = [Message("user", "hello")]


class _StubEngine(BaseHTTPRequestHandler):
    """Answers each model name with one behaviour of a real engine."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["model"] == "too long":
            self._send(400, b'{"error": {"message": "maximum context length is 2048"}}')
        elif body["model"] == "broken":
            self._send(500, b"not even JSON")
        elif body["model"] == "fails in mid-answer":
            self._send(
                200, b'data: {"choices": [{"delta": {"content": "He"}}]}\n\ndata: {"error": {"message": "boom"}}\n\n'
            )
        else:
            chunks = [
                {"choices": [{"delta": {"content": "He"}}]},
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


def streamed(url: str, model: str, usage: Usage | None = None) -> str:
    async def read() -> str:
        engine = Engine(url)
        try:
            pieces = engine.stream(model, QUESTION, Sampling(max_tokens=5), usage or Usage())
            return "".join([piece async for piece in pieces])
        finally:
            await engine.close()

    return asyncio.run(read())


def test_pieces_and_usage_of_a_stream(url: str) -> None:
    usage = Usage()
    assert streamed(url, "good", usage) == "Hello"
    assert (usage.prompt_tokens, usage.completion_tokens, usage.finish_reason) == (3, 2, "length")


def test_a_request_that_the_engine_refuses_is_the_callers_error(url: str) -> None:
    with pytest.raises(InputError, match="maximum context length is 2048"):
        streamed(url, "too long")


def test_an_engine_failure_names_the_status(url: str) -> None:
    with pytest.raises(EngineError, match="500: not even JSON"):
        streamed(url, "broken")


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
