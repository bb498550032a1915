"""`assistant serve`: the live release, its engine, and the HTTP service, started in order."""

import asyncio
import contextlib
import gc
import ipaddress
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from assistant import canary, releases
from assistant.access import Access
from assistant.admission import Admission
from assistant.base_models import Quantize, languages, served_folder
from assistant.chat import Assistant
from assistant.engine import Engine
from assistant.engine_process import EngineProcess, check_port, free_port
from assistant.exchange import Service
from assistant.experiment import Experiments, Guard, read_experiment, watch
from assistant.metrics import Metrics
from assistant.policy import read_policy
from assistant.prompt import ID
from assistant.prompts import read_prompts
from assistant.pseudonym import secret
from assistant.settings import Settings
from assistant.state import State
from assistant.tracing import tracer
from retrieval.errors import EngineUnavailable, InputError, NotReady, SupportError

if TYPE_CHECKING:
    from assistant.service import Pages

USUAL_START_S = 90
"""What the engine's start takes on two cores; only the progress bar uses it."""
_PRUNE_EVERY_S = 24 * 3600
_SWITCH_S = 0.0005
"""How long a thread that searches may keep the event loop waiting; Python's own 5 ms add up where several do."""
_log = logging.getLogger("assistant")
_BAR = "{desc}: {n:.0f} s {bar} usually {total:.0f} s"


def serve(
    settings: Settings,
    on_ready: Callable[[str], None],
    say: Callable[[str], None],
    pages: Sequence["Pages"] = (),
    guard: Guard | None = None,
    more_metrics: Callable[[], bytes] = bytes,
) -> None:
    """Serve until interrupted, with `pages` beside the chat; `on_ready` gets the service's address once it answers.

    `guard` says which arms of an experiment break its guardrails; without it nothing stops them. `more_metrics` are
    added to those of the service.

    Raises:
        NotReady: There is no index or no adapter for this base.
        InputError: The port is taken, the keys, the policy, the prompts, the experiment or the database cannot be
            read, or without keys others than this machine could ask.
        EngineError: The engine did not start.
    """
    signal.signal(signal.SIGTERM, _leave)
    sys.setswitchinterval(_SWITCH_S)
    check_port(settings.host, settings.port)
    access = Access(settings.keys_file)
    if access.open and not _is_loopback(settings.host):
        raise InputError(
            f"without API keys anybody could use the assistant on {settings.host}; "
            "run: assistant key add NAME, or listen on 127.0.0.1"
        )
    policy, prompts = read_policy(settings.policy), read_prompts(settings.prompts)
    if settings.experiment or settings.experiment_file.exists():
        read_experiment(settings.experiment_file)  # a mistake in it shall not wait for the engine
    release = releases.live(settings.releases)
    index_id, adapter = releases.require(release, settings.base)
    from assistant.live import Live, training_record

    record = training_record(settings, adapter)
    if release.prompt != ID:
        say(
            f"warning: the adapter {adapter} was trained with the prompt {release.prompt}, this version "
            f"asks with {ID}; train again for the best answers"
        )
    from assistant.live_index import open_index

    index = open_index(settings, index_id)
    state = State(settings.database_url)
    process = None if settings.engine_url else _started_engine(settings, adapter, record["recipe"]["quantize"])
    if process and not process.ready:
        say("a night needs the engine's memory; passages are quoted until it ends")
    try:
        assistant = Assistant(
            release=release.id,
            index=index,
            engine=Engine(
                settings.engine_url or (process.url if process else ""),
                silence_s=settings.silence_s,
                answer_s=settings.answer_s,
                is_ready=lambda: _is_ready(process),
            ),
            adapter=adapter,
            languages=settings.base_languages or languages(settings.base),
            policy=policy,
            prompts=prompts,
            settings=settings,
        )
        service = Service(
            live=Live(assistant),
            access=access,
            admission=Admission(settings.engine_concurrency, settings.queue, settings.queue_s),
            state=state,
            metrics=Metrics(),
            tracer=tracer(settings.otlp_endpoint),
            experiments=Experiments(settings.experiment_file, lambda model: assistant.arm(model) is not None),
        )
        _listen(settings, service, process, on_ready, say, pages, guard, more_metrics)
    finally:
        if process:
            process.stop()
        state.close()


def _started_engine(settings: Settings, adapter: str, quantize: Quantize) -> EngineProcess:
    folder = settings.adapters / adapter
    if settings.merged:
        model, lora = str(merged_folder(settings, adapter)), None
    else:
        model, lora = served_folder(settings.base, settings.models, quantize), folder
    process = EngineProcess(settings, model, adapter, lora, settings.logs / "engine.log", gives_way=True)
    bar: tqdm[None] = tqdm((), total=USUAL_START_S, desc="starting the engine", bar_format=_BAR)
    with bar:
        try:
            process.start(lambda seconds: _show(bar, seconds))
        except BaseException:
            process.stop()
            raise
    return process


def _is_ready(process: EngineProcess | None) -> bool:
    """Whether the engine serves, as far as is known; one that is not ours always does.

    Raises:
        EngineUnavailable: It is not to serve now, which takes longer than a start.
    """
    if process is None or process.ready:
        return True
    if process.paused:
        raise EngineUnavailable("the model is being trained; try again in a while")
    return False


def _leave(signal_number: int, frame: object) -> None:
    """Through every `finally`: the engine must not outlive the service."""
    sys.exit(0)


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _show(bar: "tqdm[None]", seconds: float) -> None:
    bar.n = min(seconds, USUAL_START_S)
    bar.refresh()


def merged_folder(settings: Settings, adapter: str) -> Path:
    """The folder of the model that the adapter was merged into; its own, if full fine-tuning made it.

    Raises:
        NotReady: It was not merged yet.
    """
    whole, merged = settings.adapters / adapter, settings.models / f"{adapter}-merged"
    if (whole / "config.json").is_file():
        return whole
    if not merged.is_dir():
        raise NotReady(f"{adapter} is not merged yet; run: assistant merge {adapter}")
    return merged


def _wait_for(host: str, port: int) -> None:
    """Return once `port` accepts connections: uvicorn runs what is to be done at the start before it listens."""
    while True:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            return
        time.sleep(0.05)


def _listen(
    settings: Settings,
    service: Service,
    process: EngineProcess | None,
    on_ready: Callable[[str], None],
    say: Callable[[str], None],
    pages: Sequence["Pages"],
    guard: Guard | None,
    more_metrics: Callable[[], bytes],
) -> None:
    import uvicorn

    from assistant.service import create_app

    port = settings.port or free_port()
    address = f"http://[{settings.host}]:{port}" if ":" in settings.host else f"http://{settings.host}:{port}"

    def ready() -> None:
        _wait_for(settings.host, port)
        on_ready(address)
        say(f"\nThe chat page is at {address}/ and the API at {address}/v1 (Ctrl-C stops it)")

    app = create_app(
        service,
        settings,
        secret(settings.home),
        background=lambda: _background(settings, service, process, guard),
        on_ready=lambda: threading.Thread(target=ready, daemon=True).start(),
        pages=pages,
        more_metrics=more_metrics,
    )
    gc.collect()
    gc.freeze()  # a full collection would walk all that is loaded by now, and nobody is answered meanwhile
    uvicorn.run(
        app,
        host=settings.host,
        port=port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=settings.drain_s,
    )


async def _background(settings: Settings, service: Service, process: EngineProcess | None, guard: Guard | None) -> None:
    """What goes on beside the requests: following releases, watching engine and experiment, forgetting."""
    from assistant.live import follow

    async with asyncio.TaskGroup() as group:
        group.create_task(follow(service.live, settings, process))
        group.create_task(_prune(settings, service.state))
        if guard and service.experiments:
            group.create_task(watch(partial(service.experiments.stop, service.state, guard), "the experiment"))
        if guard:
            look = partial(canary.stop_broken, settings.releases, service.state, guard)
            group.create_task(watch(look, "the canary"))
        if process:
            group.create_task(process.watch(service.metrics.engine_restarts.inc, lambda: service.admission.running))


async def _prune(settings: Settings, state: State) -> None:
    while settings.retention_days:
        try:
            count = await asyncio.to_thread(state.prune, datetime.now(UTC) - timedelta(days=settings.retention_days))
            if count:
                _log.warning("%d transcripts older than %d days are deleted", count, settings.retention_days)
        except SupportError as error:
            _log.error("%s", error)
        await asyncio.sleep(_PRUNE_EVERY_S)
