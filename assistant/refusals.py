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


def denied(error: AccessDenied, service: Service) -> Response:
    """401, counted."""
    service.metrics.rejected.labels("denied").inc()
    body = error_body(str(error), "authentication_error", "invalid_api_key")
    return as_json(body, 401, {"WWW-Authenticate": "Bearer"})


def answer_errors(app: FastAPI, service: Service) -> None:
    """Have the app answer so, and count whom it turns away."""

    @app.exception_handler(SupportError)
    async def on_support_error(request: Request, error: SupportError) -> Response:
        rejected = service.metrics.rejected
        match error:
            case AccessDenied():
                return denied(error, service)
            case LimitReached():
                rejected.labels("limit").inc()
                body = error_body(str(error), "rate_limit_error", "rate_limit_exceeded")
                return as_json(body, 429, {"Retry-After": str(error.retry_after_s)})
            case Overloaded():
                rejected.labels("overload").inc()
                body = error_body(str(error), "overloaded_error", "overloaded")
                return as_json(body, 503, {"Retry-After": str(error.retry_after_s)})
            case UnknownReply():
                return as_json(error_body(str(error), "invalid_request_error", "not_found"), 404)
            case InputError():
                return as_json(error_body(str(error), "invalid_request_error", None), 400)
            case EngineUnavailable():
                return as_json(error_body(str(error), "api_error", "engine_unavailable"), 503, {"Retry-After": "5"})
            case StorageError():
                _log.error("%s", error)
                return as_json(
                    error_body("the database does not answer", "api_error", "storage"), 503, {"Retry-After": "5"}
                )
        # What an engine says may quote the prompt.
        what = type(error).__name__ if isinstance(error, EngineError) else error
        _log.error("%s %s: %s", request.method, request.url.path, what)
        return as_json(error_body(str(error), "api_error", None), 500)

    @app.exception_handler(HTTPException)
    async def on_http_exception(request: Request, error: HTTPException) -> Response:
        body = error_body(str(error.detail), "invalid_request_error", None)
        return as_json(body, error.status_code, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def on_invalid_request(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
        message = f"{place}: {first['msg']}"
        if first["type"] == "json_invalid":
            message = f"the body is not JSON, at character {place}: {first['ctx']['error']}"
        elif place == "body":
            message = "the body is no JSON object; send one, with the header content-type: application/json"
        return as_json(error_body(message, "invalid_request_error", None, place), 400)

    @app.exception_handler(Exception)
    async def on_surprise(request: Request, error: Exception) -> Response:
        return as_json(error_body("something broke in the assistant; its log says what", "api_error", None), 500)


def as_json(body: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, "application/json")


def error_body(message: str, kind: str, code: str | None, param: str | None = None) -> dict[str, Any]:
    """OpenAI's fields; `kind` is its `type`, and `param` what of the request is at fault."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
