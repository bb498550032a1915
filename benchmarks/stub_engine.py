"""An engine that writes nothing sensible at a known pace: the part of vLLM's protocol that the assistant speaks.

    python -m benchmarks.stub_engine --port 8001 --chunks 100 --interval-ms 0

It takes vLLM's arguments and ignores those that it does not know, so that the assistant can start it in vLLM's place
(`in_place_of_vllm`). An answer names the model that was asked for, so that an answer of a wrong adapter shows. Counts
are read at `/stub/counts`; loaded adapters and requests are checked as vLLM does, prompts are not read.
"""

import argparse
import asyncio
import json
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

ROOT = Path(__file__).parent.parent
MODULE = "vllm.entrypoints.openai.api_server"


@dataclass
class Counts:
    """What became of the requests."""

    running: int = 0
    waiting: int = 0
    finished: int = 0
    aborted: int = 0
    """The caller went away before the end."""


@dataclass(frozen=True)
class Pace:
    """How fast it writes."""

    chunks: int = 100
    """Pieces of an answer, unless a request allows fewer tokens."""
    interval_ms: float = 0.0
    """Between two pieces, and before the first."""
    slots: int = 1024
    """Requests that it answers at once; others wait."""


def create_stub(models: Sequence[str], pace: Pace, answers: Mapping[str, str] | None = None) -> web.Application:
    """The engine, serving `models` from the start; `answers` are what some of them say instead."""
    stub = _Stub(list(models), pace, answers or {})
    # As vLLM does, a request whose caller went away is cancelled.
    app = web.Application(client_max_size=2**24)
    app.add_routes(
        [
            web.get("/health", stub.health),
            web.get("/v1/models", stub.models),
            web.get("/metrics", stub.metrics),
            web.get("/stub/counts", stub.counts),
            web.post("/tokenize", stub.tokenize),
            web.post("/v1/chat/completions", stub.chat),
            web.post("/v1/load_lora_adapter", stub.load),
            web.post("/v1/unload_lora_adapter", stub.unload),
        ]
    )
    return app


class _Stub:
    def __init__(self, models: list[str], pace: Pace, answers: Mapping[str, str]) -> None:
        self._models = models
        self._pace = pace
        self._answers = answers
        self._counts = Counts()
        self._slots = asyncio.Semaphore(pace.slots)

    async def health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def models(self, request: web.Request) -> web.Response:
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "stub"} for name in self._models]
        return web.json_response({"object": "list", "data": data})

    async def counts(self, request: web.Request) -> web.Response:
        return web.json_response(asdict(self._counts))

    async def metrics(self, request: web.Request) -> web.Response:
        gauges = {"running": self._counts.running, "waiting": self._counts.waiting}
        lines = [
            f"# HELP vllm:num_requests_{name} Requests {name}.\n# TYPE vllm:num_requests_{name} gauge\n"
            f'vllm:num_requests_{name}{{engine="0",model_name="{self._models[0]}"}} {value}.0\n'
            for name, value in gauges.items()
        ]
        return web.Response(text="".join(lines), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        ids = list(range(_prompt_tokens(body)))
        return web.json_response({"count": len(ids), "max_model_len": 2048, "tokens": ids})

    async def load(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = body["lora_name"]
        if name in self._models:
            return _refusal(400, f"The lora adapter '{name}' has already been loaded.")
        if not Path(body["lora_path"]).is_dir():
            return _refusal(404, f"No adapter found for '{body['lora_path']}'")
        self._models.append(name)
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if name not in self._models[1:]:
            return _refusal(404, f"The lora adapter '{name}' cannot be found.")
        self._models.remove(name)
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body["model"] not in self._models:
            return _refusal(404, f"The model `{body['model']}` does not exist.")
        counted, ended = self._counts, False
        counted.waiting += 1
        try:
            await self._slots.acquire()
        except asyncio.CancelledError:
            counted.aborted += 1
            raise
        finally:
            counted.waiting -= 1
        counted.running += 1
        try:
            reply = await (self._stream(request, body) if body.get("stream") else self._whole(body))
            ended = True
            return reply
        finally:
            self._slots.release()
            counted.running -= 1
            counted.finished += ended
            counted.aborted += not ended

    async def _whole(self, body: dict[str, Any]) -> web.Response:
        pieces, limit = self._pieces(body)
        await asyncio.sleep(self._pace.interval_ms * len(pieces) / 1000)
        message = {"role": "assistant", "content": "".join(pieces)}
        choice = {"index": 0, "message": message, "finish_reason": limit, "logprobs": None}
        return web.json_response(
            {**_head(body, "chat.completion"), "choices": [choice], "usage": _usage(body, len(pieces)), **_ids(body)}
        )

    async def _stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        pieces, limit = self._pieces(body)
        head = _head(body, "chat.completion.chunk")
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await reply.prepare(request)

        async def write(choices: list[dict[str, Any]], **more: Any) -> None:
            await reply.write(f"data: {json.dumps({**head, 'choices': choices, **more})}\n\n".encode())

        await write([_choice({"role": "assistant", "content": ""})], **_ids(body))
        due = time.monotonic()
        for number, piece in enumerate(pieces, 1):
            due += self._pace.interval_ms / 1000  # by the clock, so that a busy machine does not slow it down
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await write([_choice({"content": piece}, limit if number == len(pieces) else None)])
        if (body.get("stream_options") or {}).get("include_usage"):
            await write([], usage=_usage(body, len(pieces)))
        await reply.write(b"data: [DONE]\n\n")
        await reply.write_eof()
        return reply

    def _pieces(self, body: dict[str, Any]) -> tuple[list[str], str]:
        answer = self._answers.get(body["model"])
        return ([answer], "stop") if answer else _pieces(body, self._pace)


def _pieces(body: dict[str, Any], pace: Pace) -> tuple[list[str], str]:
    """The answer's pieces, a sentence of ten words at a time, and why it ends."""
    asked = body.get("max_completion_tokens") or body.get("max_tokens") or pace.chunks
    words = ["You", "can", "ask", "for", "a", "refund", "within", "180", "days.", "Then"]
    count = min(asked, pace.chunks)
    told = [f"I am {body['model']}. ", *(f"{words[number % 10]} " for number in range(count - 1))]
    return told, "length" if asked < pace.chunks else "stop"


def _head(body: dict[str, Any], kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": body["model"],
    }


def _choice(delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def _prompt_tokens(body: dict[str, Any]) -> int:
    return sum(len(str(message["content"])) for message in body["messages"]) // 4 + 1


def _ids(body: dict[str, Any]) -> dict[str, list[int]]:
    """The prompt's token ids, made up, for who asks for them."""
    return {"prompt_token_ids": list(range(_prompt_tokens(body)))} if body.get("return_token_ids") else {}


def _usage(body: dict[str, Any], written: int) -> dict[str, int]:
    asked = _prompt_tokens(body)
    return {"prompt_tokens": asked, "completion_tokens": written, "total_tokens": asked + written}


def _refusal(status: int, message: str) -> web.Response:
    kind = "NotFoundError" if status == 404 else "BadRequestError"
    error = {"message": message, "type": kind, "param": None, "code": status}
    return web.json_response({"error": error}, status=status)


def in_place_of_vllm(folder: Path, pace: Pace, answers: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment variables under which the assistant starts this stub where it would start vLLM.

    `folder` is given a package `vllm` whose server is this module, before the real one on Python's path. `answers` are
    what some models, by name, say instead of the usual.
    """
    package = folder / Path(*MODULE.split("."))
    package.parent.mkdir(parents=True, exist_ok=True)
    for parent in (package.parent, *package.parent.parents):
        if parent == folder:
            break
        (parent / "__init__.py").touch()
    package.with_suffix(".py").write_text("from benchmarks.stub_engine import main\n\nmain()\n", encoding="utf-8")
    return {
        "PYTHONPATH": os.pathsep.join([str(folder.resolve()), str(ROOT), os.environ.get("PYTHONPATH", "")]).strip(":"),
        "STUB_PACE": json.dumps(asdict(pace)),
        "STUB_ANSWERS": json.dumps(answers or {}),
    }


def main() -> None:
    usual = Pace(**json.loads(os.environ.get("STUB_PACE", "{}")))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--chunks", type=int, default=usual.chunks)
    parser.add_argument("--interval-ms", type=float, default=usual.interval_ms)
    parser.add_argument("--slots", type=int, default=usual.slots)
    parser.add_argument("--served-model-name", default="base")
    parser.add_argument("--lora-modules", nargs="*", default=[], metavar="NAME=PATH")
    options, _ = parser.parse_known_args()
    names = [options.served_model_name, *(module.split("=")[0] for module in options.lora_modules)]
    answers = json.loads(os.environ.get("STUB_ANSWERS", "{}"))
    app = create_stub(names, Pace(options.chunks, options.interval_ms, options.slots), answers)
    web.run_app(app, host=options.host, port=options.port, print=None, handler_cancellation=True, access_log=None)


if __name__ == "__main__":
    main()
