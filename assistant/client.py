"""A small client of the chat service, for the command line and evaluation."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from retrieval.errors import EngineError, EngineUnavailable, InputError, Overloaded

CHAT = "/v1/chat/completions"
_ATTEMPTS = 5
_Result = TypeVar("_Result")


def complete(url: str, model: str, messages: list[dict[str, str]], key: str | None = None) -> dict[str, Any]:
    """One whole reply of the service, asked with an API key where it needs one.

    Raises:
        InputError: `url` is no address.
        EngineUnavailable: The service cannot be reached.
        Overloaded: It asks to come back later.
        EngineError: It answered with another error.
    """
    return post(url, CHAT, key, {"model": model, "messages": messages})


def post(url: str, path: str, key: str | None, body: dict[str, Any]) -> dict[str, Any]:
    """What a route of the service answers to `body`; raises as `complete` does."""
    with _ask(url, path, key, body) as reply, _whole(url):
        return dict(json.load(reply))


def get(url: str, path: str, key: str | None = None) -> bytes:
    """What a route of the service says; raises as `complete` does."""
    with _ask(url, path, key) as reply, _whole(url):
        return bytes(reply.read())


def stream(
    url: str, model: str, messages: list[dict[str, str]], key: str | None = None, **fields: Any
) -> Iterator[dict[str, Any]]:
    """The chunks of one streamed reply, asked with further fields of the API; raises as `complete` does."""
    with _ask(url, CHAT, key, {"model": model, "messages": messages, "stream": True} | fields) as reply, _whole(url):
        for line in reply:
            if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise EngineError(f"the answer broke off: {chunk['error']['message']}")
                yield chunk


@contextmanager
def _whole(url: str) -> Iterator[None]:
    """A reply that ends before its time, or is none, is an error like any other."""
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise EngineUnavailable(f"the reply of {url} broke off ({error or type(error).__name__})") from None


def _ask(url: str, path: str, key: str | None, body: dict[str, Any] | None = None) -> Any:
    try:
        request = urllib.request.Request(
            f"{url.rstrip('/')}{path}",
            json.dumps(body).encode() if body else None,
            {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {}),
        )
    except ValueError as error:
        raise InputError(f"{url!r} is no address: {error}; give one such as http://127.0.0.1:8000") from None
    try:
        return urllib.request.urlopen(request, timeout=600)
    except urllib.error.HTTPError as error:
        text = error.read().decode("utf-8", "replace")
        try:
            message = json.loads(text)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = text[:300]
        told = f"{url} answered {error.code}: {message}"
        if error.code in (429, 503):
            after = error.headers.get("Retry-After", "")
            raise Overloaded(told, int(after) if after.isdigit() else 1) from None
        raise EngineError(told) from None
    except ValueError:  # it shows the key
        raise InputError(
            f"{url!r} cannot be asked: the address, or the API key (--api-key, ASSISTANT_API_KEY), holds a line end or "
            "another character that no header takes"
        ) from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise EngineUnavailable(f"nothing answers at {url} ({reason}); start it with: assistant serve") from None


def patiently(ask: Callable[[], _Result]) -> _Result:
    """What `ask` returns, asked again while the service is busy."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return ask()
        except Overloaded as error:
            time.sleep(error.retry_after_s)
    return ask()
