"""The HTTP service: an OpenAI-compatible chat endpoint, search, feedback, readiness, metrics, and the chat page."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import PlainTextResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assistant import canary
from assistant.access import Tenant
from assistant.api import ChatCompletion, ChatRequest, Conversation, Feedback, Likelihood, Reference, errors
from assistant.chat import Arm, Outcome
from assistant.engine import Piece, Sampling
from assistant.exchange import Caller, Exchange, Service
from assistant.experiment import opening
from assistant.prompt import Message as Turn
from assistant.pseudonym import pseudonym
from assistant.redaction import redact
from assistant.refusals import answer_errors, denied, error_body
from assistant.settings import Settings
from assistant.state import State
from retrieval.errors import (
    AccessDenied,
    EngineError,
    InputError,
    SupportError,
)
from retrieval.index import Filters
from retrieval.language import Language
from retrieval.store import Article

PAGE = Path(__file__).parent / "page"
MOST_BODY_BYTES = 256_000
"""Reading a conversation for personal data takes a second for each million digits, while nobody is answered."""
_CLOSED = 499
"""Nobody reads the reply; nginx's number for it in logs."""
_log = logging.getLogger(__name__)
Pages = Callable[[State, Callable[[Request], Tenant]], APIRouter]
"""Makes the routes of further pages from the database and a check that a request is an admin's, which says whose."""
_Result = TypeVar("_Result")


def create_app(
    service: Service,
    settings: Settings,
    secret: bytes,
    background: Callable[[], Coroutine[Any, Any, None]] | None = None,
    on_ready: Callable[[], None] = lambda: None,
    pages: Sequence[Pages] = (),
    more_metrics: Callable[[], bytes] = bytes,
) -> FastAPI:
    """The service as an ASGI application.

    `secret` makes pseudonyms of customers; `background` runs while the service does; `on_ready` is called once
    when it accepts requests; `pages` are served beside the chat page, and `more_metrics` told with its own.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        beside = asyncio.create_task(background()) if background else None
        if beside:
            beside.add_done_callback(_tell_end)
        on_ready()
        try:
            yield
            if beside:
                beside.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await beside
        finally:
            await service.live.assistant.engine.close()
            await asyncio.to_thread(service.state.close)
            service.tracer.shutdown()

    app = FastAPI(
        title="Payment support assistant",
        description="OpenAI's chat completions, answered from the help centre. With API keys: "
        "`Authorization: Bearer sk-…`.",
        lifespan=lifespan,
    )

    def admitted(request: Request, count: bool = True) -> tuple[Tenant, str]:
        """Whose request it is, and its address; it is counted."""
        address = request.client.host if request.client else "unknown"
        tenant = service.access.tenant(request.headers.get("authorization"), address)
        if count:
            service.access.take(tenant, address)
        return tenant, address

    def admin(request: Request) -> Tenant:
        tenant, _ = admitted(request, count=False)
        if not tenant.admin:
            raise HTTPException(403, f"the key of {tenant.name} is not an admin's")
        return tenant

    @app.post(
        "/v1/chat/completions",
        response_model=None,
        responses={
            200: {"model": ChatCompletion, "content": {"text/event-stream": {}}},
            **errors(400, 401, 404, 413, 429, 500, 503),
        },
    )
    async def chat(asked: ChatRequest, request: Request) -> Response:
        """Answer the customer's last message, from the help centre where it can."""
        if asked.model == canary.MODEL:
            admin(request)
        tenant, address = admitted(request)
        exchange = _exchange(asked, request, tenant, address)
        pieces = exchange.pieces()
        if asked.stream:
            # The first piece is awaited here, so that an engine that is down is an HTTP status.
            first = await _while_connected(request, anext(pieces, Piece()))
            wants_usage = bool((asked.stream_options or {}).get("include_usage"))
            return _EventStream(_events(exchange, asked.model, first, pieces, wants_usage))
        await _while_connected(request, _drained(pieces))
        choices = [
            {
                "index": choice,
                "message": reply.message(),
                "finish_reason": reply.finish_reason,
                "logprobs": {"content": reply.logprobs} if reply.logprobs else None,
            }
            for choice, reply in sorted(exchange.replies.items())
        ]
        return _json(
            {
                "id": exchange.id,
                "object": "chat.completion",
                "created": exchange.created,
                "model": asked.model,
                "choices": choices,
                "usage": exchange.usage(),
                "assistant": exchange.extension(),
            }
        )

    def _exchange(asked: ChatRequest, request: Request, tenant: Tenant, address: str) -> Exchange:
        model, arm = asked.model, _arm(asked.model)
        trial = service.live.canary
        conversation = _conversation(asked)
        most = settings.max_answer_tokens
        sampling = Sampling(
            max_tokens=min(asked.max_completion_tokens or asked.max_tokens or most, most),
            temperature=asked.temperature or 0.0,
            top_p=asked.top_p or 1.0,
            seed=asked.seed,
            stop=tuple([asked.stop] if isinstance(asked.stop, str) else asked.stop or ()),
            passed=asked.passed(),
        )
        caller = Caller(
            tenant=tenant,
            address=address,
            customer=pseudonym(tenant.name, asked.user, secret) if asked.user else None,
            conversation=_storable_id(tenant.name, (asked.metadata or {}).get("conversation", ""), secret),
            traceparent=request.headers.get("traceparent"),
        )
        assigned = tried = None
        if model == "assistant":
            known = tenant.name, caller.customer, caller.conversation, opening(tenant.name, conversation, secret)
            tried = canary.dealt(trial, *known) if trial else None
            assigned = tried or (service.experiments.assignment(*known) if service.experiments else None)
        if assigned:
            if dealt := service.live.assistant.arm(assigned.model):
                model, arm = assigned.model, dealt
            else:  # the release that serves now has no such way to answer
                assigned = replace(assigned, arm=None, model=model)
        release = trial.release if trial and (tried or model == canary.MODEL) else None
        return Exchange(service, caller, model, arm, conversation, sampling, not asked.stream, assigned, release)

    @app.post("/v1/likelihood", responses=errors(400, 401, 403, 404, 413, 500, 503))
    async def likelihood(asked: Reference, request: Request) -> Likelihood:
        """How likely a given answer is to a way to answer; for evaluations, needs an admin's key."""
        admin(request)
        arm, conversation = _arm(asked.model), _conversation(asked)
        trial = service.live.canary if asked.model == canary.MODEL else None
        async with service.admission.turn():
            with service.live.use(trial.release if trial else None) as assistant:
                found = await assistant.likelihood(conversation, arm, asked.answer, Outcome())
        return Likelihood(log_probability=found and found[0], tokens=found[1] if found else 0)

    @app.get("/v1/models", responses=errors(401))
    async def models(request: Request) -> dict[str, Any]:
        """The ways to answer, as models."""
        admitted(request, count=False)
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "assistant"} for name in _arms()]
        return {"object": "list", "data": data}

    @app.get("/v1/models/{model}", responses=errors(401, 404))
    async def model(model: str, request: Request) -> dict[str, Any]:
        """One of them."""
        admitted(request, count=False)
        _arm(model)
        return {"id": model, "object": "model", "created": 0, "owned_by": "assistant"}

    def _arm(model: str) -> Arm:
        assistant = service.live.assistant
        arm = assistant.arm("assistant" if model == canary.MODEL and service.live.canary else model)
        if arm is None:
            known = f"{', '.join(assistant.arms)}; each also with @ and one of: {', '.join(assistant.prompts)}"
            raise HTTPException(404, f"model {model!r} does not exist; one of: {known}")
        return arm

    def _arms() -> list[str]:
        return list(service.live.assistant.arms)

    @app.get("/v1/search", responses=errors(400, 401, 429))
    def search(
        request: Request,
        q: Annotated[str, Query(min_length=1, max_length=2000, examples=["refund time limit"])],
        count: Annotated[int, Query(ge=1, le=50)] = 5,
        lang: Annotated[Language | None, Query(description="Only passages in this language.")] = None,
        tag: Annotated[str | None, Query(max_length=200, description="Only articles with this tag.")] = None,
        folder: Annotated[str | None, Query(max_length=500, description="Only articles under this folder.")] = None,
    ) -> dict[str, Any]:
        """The passages found for a question, and whether they count as a hit."""
        admitted(request)
        with service.live.use() as assistant:
            result = assistant.index.search(redact(q), count, filters=Filters(lang, tag, folder))
        return {"hit": result.hit, **asdict(result)}

    @app.get("/v1/articles/{path:path}", responses=errors(400, 401, 404, 429))
    def article(path: Annotated[str, PathParameter(max_length=1000)], request: Request) -> Article:
        """An indexed article whole, for readers of a citation; `start` and `end` of a citation are in its text."""
        admitted(request)
        with service.live.use() as assistant:
            found = assistant.index.article(path)
        if found is None:
            raise HTTPException(404, f"the index has no article {path!r}")
        return found

    @app.post("/v1/feedback", status_code=201, responses=errors(400, 401, 404, 413, 429, 503))
    def feedback(given: Feedback, request: Request) -> dict[str, str]:
        """Keep what a customer thought of a reply; it is stored when this answers."""
        tenant, _ = admitted(request)
        if "thumb" in given.model_fields_set and not (given.thumb or given.reason or given.correction):
            service.state.withdraw(given.id, tenant.name)
            return {"id": given.id}
        service.state.feedback(given.id, given.thumb, given.reason, given.correction, tenant.name)
        if given.thumb:
            service.metrics.feedback.labels(given.thumb).inc()
            if service.experiments and (arm := service.state.experiment_arm(given.id)):
                service.metrics.experiment_feedback.labels(arm, given.thumb).inc()
        return {"id": given.id}

    @app.delete("/v1/customers/{customer:path}", responses=errors(400, 401, 403, 404, 503))
    def forget(
        customer: Annotated[str, PathParameter(max_length=200)],
        request: Request,
        tenant: Annotated[str | None, Query(max_length=64, description="Whose customer; by default the key's.")] = None,
    ) -> dict[str, int]:
        """Delete all transcripts and feedback of a customer, by the id that came as `user`; needs an admin's key."""
        caller = admin(request)
        return {"deleted": service.state.forget(pseudonym(tenant or caller.name, customer, secret))}

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether this process answers."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"description": "Not ready; `reason` says why."}})
    async def readyz() -> Response:
        """Whether the engine, the index and the adapter serve; `answers_by` names all else that answers depend on.

        `canary` is the release on trial, and whether it serves; null without one.
        """
        assistant = service.live.assistant
        if reason := await not_ready():
            return _json({"ready": False, "reason": reason}, 503)
        parts = {"release": assistant.release, "adapter": assistant.adapter, "index": assistant.index.id}
        prompts = {name: each.id for name, each in assistant.prompts.items()}
        return _json(
            {
                "ready": True,
                **parts,
                "base": settings.base,
                "prompts": prompts,
                "answers_by": assistant.answers_by,
                "canary": service.live.canary_state,
            }
        )

    async def not_ready() -> str | None:
        """Why nothing can be answered, if so."""
        assistant = service.live.assistant
        try:
            served = await assistant.engine.models()
        except EngineError as error:
            return str(error)
        return None if assistant.adapter in served else f"the engine does not serve the adapter {assistant.adapter}"

    @app.get("/metrics", response_class=PlainTextResponse, responses=errors(401, 403))
    async def metrics(request: Request) -> Response:
        """Metrics for Prometheus, the engine's among them; needs an admin's key where there are keys."""
        admin(request)
        service.metrics.show(service, ready=await not_ready() is None)
        text = service.metrics.render(await service.live.assistant.engine.metrics())
        text += await asyncio.to_thread(more_metrics)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    for page in pages:
        app.include_router(page(service.state, admin))
    _serve_page(app, settings.embed_origins)
    answer_errors(app, service)
    app.add_middleware(_Door, service=service)
    described = app.openapi()
    described["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    described["security"] = [{"key": []}, {}]
    return app


def page_headers(embed_origins: tuple[str, ...] = ()) -> dict[str, str]:
    """Headers of a page that runs no script but its own, and that others than `embed_origins` may not frame."""
    ancestors = " ".join(("'self'", *embed_origins))
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        f"base-uri 'none'; form-action 'none'; frame-ancestors {ancestors}; "
        "require-trusted-types-for 'script'; trusted-types dompurify"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


def _conversation(asked: Conversation) -> list[Turn]:
    said = [message.plain() for message in asked.messages]
    spoken = [message for message in said if message.role == "user"]
    if said[-1].role not in ("user", "tool") or not spoken or not spoken[-1].content.strip():
        raise HTTPException(400, "the last message must be the user's, or a tool's after it, and not be empty")
    return said


def _serve_page(app: FastAPI, embed_origins: tuple[str, ...]) -> None:
    document, headers = (PAGE / "index.html").read_bytes(), page_headers(embed_origins)

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return Response(document, media_type="text/html; charset=utf-8", headers=headers)

    app.mount("/page", _PageFiles(directory=PAGE))


class _PageFiles(StaticFiles):
    """Kept by browsers for minutes only: their names do not change with the version."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers["Cache-Control"] = "public, max-age=300"
        return response


async def _events(
    exchange: Exchange, model: str, first: Piece, pieces: AsyncIterator[Piece], wants_usage: bool
) -> AsyncIterator[bytes]:
    head = {"id": exchange.id, "object": "chat.completion.chunk", "created": exchange.created, "model": model}
    begun: set[int] = set()
    ends: list[Piece] = []

    def event(piece: Piece, **more: Any) -> bytes:
        delta: dict[str, Any] = {} if piece.choice in begun else {"role": "assistant", "content": ""}
        begun.add(piece.choice)
        if piece.text:
            delta["content"] = piece.text
        if piece.tool_calls:
            delta["tool_calls"] = piece.tool_calls
        choice = {"index": piece.choice, "delta": delta, "finish_reason": piece.finish_reason}
        if piece.logprobs:
            choice["logprobs"] = piece.logprobs
        return _event({**head, "choices": [choice], **more})

    try:
        piece: Piece | None = first
        while piece is not None:
            if piece.finish_reason:
                ends.append(piece)
            else:
                yield event(piece)
            piece = await anext(pieces, None)
    except SupportError as error:
        kind = "invalid_request_error" if isinstance(error, InputError) else "api_error"
        yield _event(error_body(str(error), kind, None))
        return
    for piece in ends[:-1]:
        yield event(piece)
    last = event(ends[-1] if ends else Piece(finish_reason="stop"), assistant=exchange.extension())
    if wants_usage:
        last += _event({**head, "choices": [], "usage": exchange.usage()})
    yield last + b"data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def _storable_id(tenant: str, id: str, secret: bytes) -> str | None:
    """The id of a conversation; a pseudonym of one that is a phone number or an address."""
    return (id if redact(id) == id else pseudonym(tenant, id, secret)) or None


def _tell_end(beside: "asyncio.Task[None]") -> None:
    """Without what runs beside, no release is followed and no engine started again."""
    if not beside.cancelled() and (error := beside.exception()):
        _log.error("what runs beside the service has ended; restart it", exc_info=error)


class _EventStream(StreamingResponse):
    """Ends its generator, and with it the engine's work, when the client has gone."""

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self.body_iterator):  # type: ignore[type-var]
            await super().__call__(scope, receive, send)


async def _drained(pieces: AsyncIterator[Piece]) -> None:
    async for _ in pieces:
        pass


async def _while_connected(request: Request, work: Awaitable[_Result]) -> _Result:
    """The result of `work`, which is cancelled when the client goes away."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise HTTPException(_CLOSED, "the client has gone")
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Door:
    """Turns away who has no key, before the body is read, and bodies that are too large, before they are read whole."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if scope["path"].startswith("/v1/"):
            try:
                address = scope["client"][0] if scope.get("client") else "unknown"
                self._service.access.tenant(Headers(scope=scope).get("authorization"), address)
            except AccessDenied as error:
                return await denied(error, self._service)(scope, receive, send)
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MOST_BODY_BYTES:
                raise HTTPException(413, f"the request is larger than {MOST_BODY_BYTES} bytes")
            return message

        await self._app(scope, limited, send)


def _json(body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, "application/json")
