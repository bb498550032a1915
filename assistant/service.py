"""The HTTP service: an OpenAI-compatible chat endpoint, search, readiness, and the chat page."""

import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, Field

from assistant.chat import ARMS, Assistant, Outcome
from assistant.engine import Sampling
from assistant.prompt import Message
from assistant.redaction import redact
from retrieval.errors import EngineError, EngineUnavailable, InputError, SupportError
from retrieval.index import Filters
from retrieval.language import Language
from retrieval.store import Article

PAGE = Path(__file__).parent / "page" / "index.html"
_log = logging.getLogger("assistant")


class _TextPart(BaseModel):
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_TextPart]

    def plain(self) -> Message:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message("system" if self.role == "developer" else self.role, text)


class ChatRequest(BaseModel):
    """A chat completion request as OpenAI defines it; fields not named here are ignored."""

    model: str = Field("assistant", description=f"One of: {', '.join(ARMS)}.")
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=200)]
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = None
    stop: str | list[str] | None = None


def create_app(
    assistant: Assistant,
    most_tokens: int,
    is_alive: Callable[[], bool] = lambda: True,
    on_ready: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The service for one release.

    `most_tokens` bounds what a request may ask for; `is_alive` tells whether a supervised engine still
    runs; `on_ready` is called once when the service accepts requests.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        on_ready()
        yield
        await assistant.engine.close()

    app = FastAPI(title="Payment support assistant", lifespan=lifespan)

    @app.post("/v1/chat/completions")
    async def chat(request: ChatRequest) -> Response:
        """Answer the last user message, from the help centre where it can."""
        arm = assistant.arms.get(request.model)
        if arm is None:
            raise HTTPException(404, f"model {request.model!r} does not exist; one of: {', '.join(assistant.arms)}")
        conversation = [message.plain() for message in request.messages]
        if conversation[-1].role != "user" or not conversation[-1].content.strip():
            raise HTTPException(400, "the last message must be the user's and must not be empty")
        asked = request.max_completion_tokens or request.max_tokens or most_tokens
        sampling = Sampling(
            max_tokens=min(asked, most_tokens),
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            stop=tuple([request.stop] if isinstance(request.stop, str) else request.stop or ()),
        )
        outcome, started = Outcome(), time.monotonic()
        pieces = assistant.answer(conversation, arm, sampling, outcome)
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": request.model}
        if request.stream:
            # The first piece is awaited here, so that an engine that is down is an HTTP status.
            first = await anext(pieces, "")
            wants_usage = bool((request.stream_options or {}).get("include_usage"))
            events = _events(head, first, pieces, outcome, wants_usage, started)
            return StreamingResponse(events, media_type="text/event-stream")
        text = "".join([piece async for piece in pieces])
        _log_answer(head, outcome, started)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": outcome.usage.finish_reason,
        }
        body = {**head, "object": "chat.completion", "choices": [choice], "usage": _usage(outcome)}
        return JSONResponse(body | {"assistant": extension(outcome)})

    def extension(outcome: Outcome) -> dict[str, Any]:
        return {
            "route": outcome.route,
            "citations": [asdict(citation) for citation in outcome.citations],
            "adapter": assistant.adapter,
            "index": assistant.index.id,
        }

    async def _events(
        head: dict[str, Any],
        first: str,
        pieces: AsyncIterator[str],
        outcome: Outcome,
        wants_usage: bool,
        started: float,
    ) -> AsyncIterator[str]:
        def event(delta: dict[str, str], finish: str | None = None, **more: Any) -> str:
            choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
            chunk = {**head, "object": "chat.completion.chunk", "choices": choices, **more}
            return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"

        yield event({"role": "assistant", "content": first})
        try:
            async for piece in pieces:
                yield event({"content": piece})
        except SupportError as error:
            yield f"data: {json.dumps(_error(str(error), 'api_error', None), ensure_ascii=False)}\n\n"
            return
        yield event({}, outcome.usage.finish_reason, assistant=extension(outcome))
        if wants_usage:
            chunk = {**head, "object": "chat.completion.chunk", "choices": [], "usage": _usage(outcome)}
            yield f"data: {json.dumps(chunk)}\n\n"
        yield "data: [DONE]\n\n"
        _log_answer(head, outcome, started)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The ways to answer, as models."""
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "assistant"} for name in assistant.arms]
        return {"object": "list", "data": data}

    @app.get("/v1/search")
    def search(
        q: Annotated[str, Query(min_length=1, max_length=2000)],
        count: Annotated[int, Query(ge=1, le=50)] = 5,
        lang: Annotated[Language | None, Query(description="Only passages in this language.")] = None,
        tag: Annotated[str | None, Query(max_length=200, description="Only articles with this tag.")] = None,
        folder: Annotated[str | None, Query(max_length=500, description="Only articles under this folder.")] = None,
    ) -> dict[str, Any]:
        """The passages found for a question, and whether they count as a hit."""
        result = assistant.index.search(redact(q), count, filters=Filters(lang, tag, folder))
        return {"hit": result.hit, **asdict(result)}

    @app.get("/v1/articles/{path:path}")
    def article(path: str) -> Article:
        """An indexed article whole, for readers of a citation; `start` and `end` of a citation are in its text."""
        found = assistant.index.article(path)
        if found is None:
            raise HTTPException(404, f"the index has no article {path!r}")
        return found

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        """Whether this process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> Response:
        """Whether the index and the adapter serve."""
        reason = None
        try:
            if not is_alive():
                reason = "the engine has ended"
            elif assistant.adapter not in await assistant.engine.models():
                reason = f"the engine does not serve the adapter {assistant.adapter}"
        except EngineError as error:
            reason = str(error)
        if reason:
            return JSONResponse({"ready": False, "reason": reason}, status_code=503)
        return JSONResponse({"ready": True, "adapter": assistant.adapter, "index": assistant.index.id})

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        policy = (
            "default-src 'self'; img-src 'self' data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
            "frame-ancestors 'self'"
        )
        return FileResponse(PAGE, headers={"Content-Security-Policy": policy})

    _answer_errors(app)
    return app


def _answer_errors(app: FastAPI) -> None:
    """Errors in OpenAI's shape."""

    @app.exception_handler(SupportError)
    async def on_support_error(request: Request, error: SupportError) -> JSONResponse:
        if isinstance(error, InputError):
            return JSONResponse(_error(str(error), "invalid_request_error", None), status_code=400)
        if isinstance(error, EngineUnavailable):
            body = _error(str(error), "api_error", "engine_unavailable")
            return JSONResponse(body, status_code=503, headers={"Retry-After": "5"})
        return JSONResponse(_error(str(error), "api_error", None), status_code=500)

    @app.exception_handler(HTTPException)
    async def on_http_exception(request: Request, error: HTTPException) -> JSONResponse:
        body = _error(str(error.detail), "invalid_request_error", None)
        return JSONResponse(body, status_code=error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def on_invalid_request(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
        return JSONResponse(_error(f"{place}: {first['msg']}", "invalid_request_error", None), status_code=400)


def _error(message: str, kind: str, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _usage(outcome: Outcome) -> dict[str, int]:
    asked, written = outcome.usage.prompt_tokens, outcome.usage.completion_tokens
    return {"prompt_tokens": asked, "completion_tokens": written, "total_tokens": asked + written}


def _log_answer(head: dict[str, Any], outcome: Outcome, started: float) -> None:
    _log.info(
        "%s route=%s passages=%d citations=%d tokens=%d+%d ms=%d",
        head["id"],
        outcome.route,
        len(outcome.search.found) if outcome.search else 0,
        len(outcome.citations),
        outcome.usage.prompt_tokens,
        outcome.usage.completion_tokens,
        (time.monotonic() - started) * 1000,
    )
