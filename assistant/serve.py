"""`assistant serve`: the live release, its engine, and the HTTP service, started in order."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from assistant import releases
from assistant.base_models import languages, served_folder
from assistant.chat import Assistant
from assistant.engine import Engine, EngineProcess, check_port, free_port
from assistant.prompt import ID
from assistant.settings import Settings
from retrieval.errors import NotReady

USUAL_START_S = 90
"""What the engine's start takes on two cores; only the progress bar uses it."""
_BAR = "{desc}: {n:.0f} s {bar} usually {total:.0f} s"


def serve(settings: Settings, on_ready: Callable[[str], None], say: Callable[[str], None]) -> None:
    """Serve until interrupted; `on_ready` is called with the service's address once it answers.

    Raises:
        NotReady: There is no index or no adapter for this base.
        InputError: The port is taken.
        EngineError: The engine did not start.
    """
    check_port(settings.host, settings.port)
    release = releases.live(settings.releases)
    index_id, adapter = releases.require(release, settings.base)
    folder = settings.adapters / adapter
    if not (folder / "training.json").is_file():
        raise NotReady(f"the live adapter's folder {folder} is missing; run: assistant train --logs FILE")
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    if record.get("served") == "merged" and not settings.merged:
        raise NotReady(f"vLLM serves {adapter} only merged into its base; run: assistant serve --merged")
    if release.prompt != ID:
        say(
            f"warning: the adapter {adapter} was trained with the prompt {release.prompt}, this version "
            f"asks with {ID}; train again for the best answers"
        )

    from assistant.live_index import open_index

    index = open_index(settings, index_id)
    process = None
    if settings.engine_url is None:
        if settings.merged:
            model, lora = str(merged_folder(settings, adapter)), None
        else:
            model, lora = served_folder(settings.base, settings.models, record["recipe"]["quantize"]), folder
        log = settings.logs / "engine.log"
        process = EngineProcess(settings, model, adapter, lora, log)
        bar: tqdm[None] = tqdm((), total=USUAL_START_S, desc="starting the engine", bar_format=_BAR)
        with bar:
            try:
                process.start(lambda seconds: _show(bar, seconds))
            except BaseException:
                process.stop()
                raise
    assistant = Assistant(
        index=index,
        engine=Engine(settings.engine_url or (process.url if process else "")),
        adapter=adapter,
        languages=settings.base_languages or languages(settings.base),
        passages=settings.passages,
        merged=settings.merged,
    )
    try:
        _listen(settings, assistant, process, on_ready, say)
    finally:
        if process:
            process.stop()


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
    assistant: Assistant,
    process: EngineProcess | None,
    on_ready: Callable[[str], None],
    say: Callable[[str], None],
) -> None:
    import uvicorn

    from assistant.service import create_app

    port = settings.port or free_port()
    address = f"http://{settings.host}:{port}"

    def ready() -> None:
        _wait_for(settings.host, port)
        on_ready(address)
        say(f"\nThe chat page is at {address}/ and the API at {address}/v1 (Ctrl-C stops it)")

    app = create_app(
        assistant,
        settings.max_answer_tokens,
        is_alive=lambda: process is None or process.alive,
        on_ready=lambda: threading.Thread(target=ready, daemon=True).start(),
    )
    uvicorn.run(app, host=settings.host, port=port, log_level="warning", access_log=False)
