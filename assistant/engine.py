"""A client of the language model engine: vLLM, or any other that speaks OpenAI's protocol."""

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from assistant import prompt
from assistant.prompt import Message
from retrieval.errors import EngineError, EngineUnavailable, InputError

BASE_NAME = "base"
"""The name under which an engine serves the base without an adapter."""
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Sampling:
    """How the engine writes; the names are OpenAI's."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    passed: Mapping[str, Any] = field(default_factory=dict)
    """Further fields for the engine as they are: `n`, `tools`, `response_format`, `logprobs`, …"""


@dataclass(frozen=True, slots=True)
class Piece:
    """What the engine sent at once of one of the answers asked for."""

    text: str = ""
    choice: int = 0
    tool_calls: tuple[dict[str, Any], ...] = ()
    """As in a stream of the OpenAI API: parts, to be put together by their `index`."""
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None = None

    def goes_on_with(self, next: "Piece") -> bool:
        """Both can be passed on as one piece."""
        plain = not (self.tool_calls or next.tool_calls or self.logprobs or next.logprobs or self.finish_reason)
        return plain and self.choice == next.choice


@dataclass
class Usage:
    """The tokens of one generation: `prompt_tokens_id` comes with its first piece, the others as it ends."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    """Of the prompt's, those that the engine had from earlier requests, if it says so."""
    prompt_tokens_id: str | None = None
    """`prompt.tokens_id` of the prompt as the engine read it, if it says so."""
    finish_reason: str = "stop"
    """Why the answer ended; of several, the last one."""


class Engine:
    """A client of a running engine."""

    def __init__(
        self,
        url: str,
        silence_s: float | None = None,
        answer_s: float = 3600,
        is_ready: Callable[[], bool] = lambda: True,
    ) -> None:
        """The engine at `url`.

        It may be silent for `silence_s` before and within an answer, and take `answer_s` for all of it. While
        `is_ready` says no, nothing is asked.
        """
        self.url = url.rstrip("/")
        self._answer_s = answer_s
        self._is_ready = is_ready
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=silence_s)
        self._whole_timeout = aiohttp.ClientTimeout(total=answer_s, sock_connect=5)
        self._session: aiohttp.ClientSession | None = None

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0)  # how many at once is admission's to say
            self._session = aiohttp.ClientSession(timeout=self._timeout, connector=connector)
        return self._session

    def _check_ready(self) -> None:
        if not self._is_ready():
            raise EngineUnavailable("the engine is starting; try again")

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def models(self) -> list[str]:
        """The names that it serves.

        Raises:
            EngineUnavailable: It cannot be reached.
        """
        self._check_ready()
        try:
            async with self._client().get(f"{self.url}/v1/models", timeout=aiohttp.ClientTimeout(total=5)) as reply:
                body = await reply.json()
                return [str(model["id"]) for model in body["data"]]
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
            raise EngineUnavailable(f"the engine does not answer ({type(error).__name__})") from error

    async def tokens(self, model: str, messages: list[Message]) -> list[int]:
        """Token ids of a prompt as the engine makes them (vLLM's `/tokenize`).

        Raises:
            EngineUnavailable, EngineError: As `answer` says.
        """
        body = {"model": model, "messages": [message.as_dict() for message in messages]}
        body["chat_template_kwargs"] = prompt.TEMPLATE_ARGUMENTS  # type: ignore[assignment]
        try:
            async with self._client().post(f"{self.url}/tokenize", json=body) as reply:
                if reply.status >= 400:
                    raise _refusal(reply.status, await reply.text())
                return list(orjson.loads(await reply.read())["tokens"])
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._gone(error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise EngineError(f"the engine tells no token ids ({type(error).__name__})") from error

    async def likelihood(self, model: str, messages: list[Message], answer: str) -> tuple[float, int]:
        """The log probability of `answer` after `messages`, and its tokens, the mark of its end among them.

        vLLM gives those of a prompt (`prompt_logprobs`), so the answer is made a part of it.

        Raises:
            EngineUnavailable, InputError, EngineError: As `answer` says.
        """
        self._check_ready()
        prefix = await self.tokens(model, messages)
        body = {
            "model": model,
            "messages": [message.as_dict() for message in (*messages, Message("assistant", answer))],
            "chat_template_kwargs": prompt.TEMPLATE_ARGUMENTS,
            "add_generation_prompt": False,
            "max_tokens": 1,
            "prompt_logprobs": 0,
            "return_token_ids": True,
        }
        try:
            async with self._client().post(
                f"{self.url}/v1/chat/completions", data=_json(body), headers=_JSON, timeout=self._whole_timeout
            ) as reply:
                if reply.status >= 400:
                    raise _refusal(reply.status, await reply.text())
                told = orjson.loads(await reply.read())
            scored = list(zip(told["prompt_token_ids"], told["prompt_logprobs"], strict=True))[len(prefix) :]
            return sum(of[str(token)]["logprob"] for token, of in scored), len(scored)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._gone(error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise EngineError(f"the engine gives no probabilities of a prompt ({type(error).__name__})") from error

    async def load(self, adapter: str, folder: Path) -> None:
        """Serve the adapter in `folder` under the name `adapter` too.

        Raises:
            EngineUnavailable: It cannot be reached.
            EngineError: It refuses.
        """
        await self._tell("load_lora_adapter", {"lora_name": adapter, "lora_path": str(folder)})

    async def unload(self, adapter: str) -> None:
        """Forget the name `adapter`; raises as `load` does."""
        await self._tell("unload_lora_adapter", {"lora_name": adapter})

    async def _tell(self, route: str, body: dict[str, str]) -> None:
        try:
            async with self._client().post(f"{self.url}/v1/{route}", json=body) as reply:
                if reply.status >= 400:
                    raise _refusal(reply.status, await reply.text())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._gone(error) from error

    async def metrics(self) -> str:
        """Its metrics as Prometheus reads them; nothing if it has none."""
        try:
            async with self._client().get(f"{self.url}/metrics", timeout=aiohttp.ClientTimeout(total=2)) as reply:
                return await reply.text() if reply.status == 200 else ""
        except (aiohttp.ClientError, TimeoutError):
            return ""

    async def answer(
        self, model: str, messages: list[Message], sampling: Sampling, usage: Usage, whole: bool = False
    ) -> AsyncIterator[Piece]:
        """What `model` answers, in pieces as they come, or `whole` once it is; `usage` is filled in.

        Raises:
            EngineUnavailable: It cannot be reached, or went away in mid-answer, or is silent for too long.
            InputError: It refuses the request, for instance because the prompt is too long.
            EngineError: It failed.
        """
        self._check_ready()
        body: dict[str, Any] = {
            "model": model,
            "messages": [message.as_dict() for message in messages],
            "chat_template_kwargs": prompt.TEMPLATE_ARGUMENTS,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "return_token_ids": True,
            **({} if whole else {"stream": True, "stream_options": {"include_usage": True}}),
            **sampling.passed,
        }
        timeout = self._whole_timeout if whole else self._timeout
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        ends = time.monotonic() + self._answer_s
        try:
            async with self._client().post(
                f"{self.url}/v1/chat/completions", data=_json(body), headers=_JSON, timeout=timeout
            ) as reply:
                if reply.status >= 400:
                    raise _refusal(reply.status, await reply.text())
                if whole:
                    for piece in _pieces(orjson.loads(await reply.read()), "message", usage):
                        yield piece
                    return
                rest = b""
                async for received in reply.content.iter_any():
                    *lines, rest = (rest + received).split(b"\n")
                    for piece in _joined(lines, usage):
                        yield piece
                    if time.monotonic() > ends:
                        raise EngineUnavailable(f"the answer took longer than {self._answer_s:g} s; try again")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._gone(error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise EngineError(f"the engine answered what no engine does ({type(error).__name__})") from error

    def _gone(self, error: Exception) -> EngineUnavailable:
        """Without the address, which customers read and which may hold a password."""
        return EngineUnavailable(f"the engine went away ({type(error).__name__}); try again")


def _json(body: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError as error:
        raise InputError(f"the request holds something that cannot be passed on: {error}") from error


def _joined(lines: Sequence[bytes], usage: Usage) -> Iterator[Piece]:
    """The pieces in lines of a stream; text that came at once is passed on at once."""
    waiting: Piece | None = None
    for line in lines:
        if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
            continue
        chunk = orjson.loads(line[6:])
        if "error" in chunk:
            raise EngineError(f"the engine failed: {chunk['error'].get('message', chunk['error'])}")
        for piece in _pieces(chunk, "delta", usage):
            if waiting and waiting.goes_on_with(piece):
                waiting = replace(piece, text=waiting.text + piece.text)
                continue
            if waiting:
                yield waiting
            waiting = piece
    if waiting:
        yield waiting


def _pieces(body: dict[str, Any], part: str, usage: Usage) -> Iterator[Piece]:
    """The pieces in a chunk, or in a whole reply; `usage` is told what it says of tokens."""
    if told := body.get("usage"):
        usage.prompt_tokens, usage.completion_tokens = told["prompt_tokens"], told["completion_tokens"]
        usage.cached_tokens = (told.get("prompt_tokens_details") or {}).get("cached_tokens")
    if ids := body.get("prompt_token_ids"):
        usage.prompt_tokens_id = prompt.tokens_id(ids)
    for choice in body["choices"]:
        usage.finish_reason = choice.get("finish_reason") or usage.finish_reason
        said = choice[part]
        yield Piece(
            text=said.get("content") or "",
            choice=choice.get("index", 0),
            tool_calls=tuple({"index": i, **call} for i, call in enumerate(said.get("tool_calls") or ())),
            logprobs=choice.get("logprobs"),
            finish_reason=choice.get("finish_reason"),
        )


def _refusal(status: int, text: str) -> EngineError | InputError:
    try:
        message = json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = text[:300]
    if status in (400, 422):
        return InputError(f"the engine refuses the request: {message}")
    if status in (404, 429, 502, 503, 504):
        return EngineUnavailable(f"the engine answered {status}; try again")
    return EngineError(f"the engine answered {status}: {message}")
