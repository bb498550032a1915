"""What is answered where a request is refused or fails: errors in OpenAI's shape."""

import logging
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from assistant.exchange import Service
from retrieval.errors import (
    AccessDenied,
    EngineError,
    EngineUnavailable,
    InputError,
    LimitReached,
    Overloaded,
    StorageError,
    SupportError,
    UnknownReply,
)

_log = logging.getLogger("assistant")
_SOON = {"Retry-After": "5"}


def denied(error: AccessDenied, service: Service) -> Response:
    """401, counted."""
    service.metrics.rejected.labels("denied").inc()
    headers = {"WWW-Authenticate": "Bearer"}
    return _refusal(401, str(error), "authentication_error", "invalid_api_key", headers=headers)


def answer_errors(app: FastAPI, service: Service) -> None:
    """Register what answers errors in OpenAI's shape, and counts whom it turns away."""

    @app.exception_handler(SupportError)
    async def on_support_error(request: Request, error: SupportError) -> Response:
        rejected, message = service.metrics.rejected, str(error)
        match error:
            case AccessDenied():
                return denied(error, service)
            case LimitReached():
                rejected.labels("limit").inc()
                again = {"Retry-After": str(error.retry_after_s)}
                return _refusal(429, message, "rate_limit_error", "rate_limit_exceeded", headers=again)
            case Overloaded():
                rejected.labels("overload").inc()
                again = {"Retry-After": str(error.retry_after_s)}
                return _refusal(503, message, "overloaded_error", "overloaded", headers=again)
            case UnknownReply():
                return _refusal(404, message, "invalid_request_error", "not_found")
            case InputError():
                return _refusal(400, message, "invalid_request_error")
            case EngineUnavailable():
                return _refusal(503, message, "api_error", "engine_unavailable", headers=_SOON)
            case StorageError():
                _log.error("%s", error)
                return _refusal(503, "the database does not answer", "api_error", "storage", headers=_SOON)
        # What an engine says may quote the prompt.
        what = type(error).__name__ if isinstance(error, EngineError) else error
        _log.error("%s %s: %s", request.method, request.url.path, what)
        return _refusal(500, message, "api_error")

    @app.exception_handler(HTTPException)
    async def on_http_exception(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        return _refusal(error.status_code, str(error.detail), "invalid_request_error", headers=headers)

    @app.exception_handler(RequestValidationError)
    async def on_invalid_request(request: Request, error: RequestValidationError) -> Response:
        message, param = _fault(error.errors()[0])
        return _refusal(400, message, "invalid_request_error", param=param)

    @app.exception_handler(Exception)
    async def on_surprise(request: Request, error: Exception) -> Response:
        return _refusal(500, "something broke in the assistant; its log says what", "api_error")


def error_body(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """OpenAI's fields; `kind` is its `type`, and `param` what of the request is at fault."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _refusal(
    status: int,
    message: str,
    kind: str,
    code: str | None = None,
    *,
    param: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    return Response(orjson.dumps(error_body(message, kind, code, param)), status, headers, "application/json")


def _fault(first: dict[str, Any]) -> tuple[str, str | None]:
    """What pydantic says of a request, in words, and the field."""
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "json_invalid":
        return f"the body is not JSON, at character {place}: {first['ctx']['error']}", None
    if not place and first["type"] in ("missing", "model_attributes_type"):
        return "the body is no JSON object; send one, with the header content-type: application/json", None
    return f"{place or 'body'}: {first['msg']}", place or None
