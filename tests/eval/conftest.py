"""A service on a real port for the evaluation to ask, whose answers are worked out from the question."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import PlainTextResponse, StreamingResponse

ARTICLE = "# Refunds\n\nRefunds take 5 days."


class Stub:
    """Speaks the part of the service that the evaluation uses; `rag` says 9 days, every other way 5."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.adapter = "adapter-1"
        self.answers_by = "settings-1"
        self.refused: set[str] = set()
        self.degraded: list[str] = []
        self.busy = 0
        self.cpu_s = 0.0
        self.app = FastAPI()
        self.app.get("/readyz")(self.readyz)
        self.app.get("/metrics")(self.metrics)
        self.app.get("/v1/articles/{path:path}")(self.article)
        self.app.post("/v1/chat/completions")(self.chat)

    async def readyz(self) -> dict[str, Any]:
        prompts = {"plain": "p0", "short": "p1"}
        parts = {"release": "r1", "adapter": self.adapter, "index": "i1", "base": "b"}
        return parts | {"prompts": prompts, "answers_by": self.answers_by}

    async def metrics(self) -> PlainTextResponse:
        used = f"assistant_processes_cpu_seconds {self.cpu_s}\nassistant_processes_memory_bytes 1e+06\n"
        return PlainTextResponse(used)

    async def article(self, path: str) -> dict[str, str]:
        return {"path": path, "text": ARTICLE}

    async def chat(self, request: Request) -> StreamingResponse:
        body = await request.json()
        way, question = body["model"].removeprefix("assistant:"), body["messages"][-1]["content"]
        if self.busy:
            self.busy -= 1
            raise HTTPException(503, "busy", {"Retry-After": "0"})
        self.asked.append((way, question))
        if question in self.refused:
            raise HTTPException(400, "the conversation is too long")
        self.cpu_s += 2.0
        text = f"{question} {'9' if way == 'rag' else '5'} days."
        extension = {
            "route": "grounded",
            "citations": [{"n": 1, "path": "en/refund.md"}],
            "adapter": self.adapter,
            "index": "i1",
            "degraded": self.degraded,
            "passages": [{"path": "en/refund.md", "heading": "Refunds", "start": 11, "end": len(ARTICLE)}],
        }

        async def events() -> Any:
            for piece in text.split(" "):
                yield _event({"choices": [{"index": 0, "delta": {"content": piece + " "}}]})
            yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "assistant": extension})
            yield _event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
            yield b"data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def url(stub: Stub) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(stub.app, port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()
