"""The release that serves, and its change while requests run.

A request keeps the release that it began with to its end; the next one gets the new release. What an old release had
to itself is closed when its last request has ended.
"""

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from assistant import releases
from assistant.chat import Assistant
from assistant.engine_process import EngineProcess
from assistant.live_index import open_index
from assistant.releases import Release
from assistant.settings import Settings
from retrieval.errors import EngineUnavailable, NotReady

_POLL_S = 0.5
_log = logging.getLogger("assistant")


class _Serving:
    def __init__(self, assistant: Assistant) -> None:
        self.assistant = assistant
        self.requests = 0


class Live:
    """The assistant that new requests get, and those that still answer earlier ones."""

    def __init__(self, assistant: Assistant) -> None:
        self._current = _Serving(assistant)
        self._retired: list[_Serving] = []

    @property
    def assistant(self) -> Assistant:
        return self._current.assistant

    @contextmanager
    def use(self) -> Iterator[Assistant]:
        """The assistant for a request, which stays open as long as the block runs."""
        serving = self._current
        serving.requests += 1
        try:
            yield serving.assistant
        finally:
            serving.requests -= 1

    def switch(self, assistant: Assistant) -> None:
        """Give new requests `assistant`."""
        self._retired.append(self._current)
        self._current = _Serving(assistant)

    def idle(self) -> list[Assistant]:
        """Assistants that no request uses any more; each is returned once."""
        idle = [serving.assistant for serving in self._retired if serving.requests == 0]
        self._retired = [serving for serving in self._retired if serving.requests > 0]
        return idle

    @property
    def kept(self) -> list[Assistant]:
        """The current assistant, and those that still answer."""
        return [self.assistant, *(serving.assistant for serving in self._retired)]


async def follow(live: Live, settings: Settings, process: EngineProcess | None) -> None:
    """Switch to each release that goes live, until cancelled; one that cannot serve leaves the present one."""
    wanted = seen = live.assistant.release
    told = ""
    while True:
        await asyncio.sleep(_POLL_S)
        try:
            release = await asyncio.to_thread(releases.live, settings.releases)
            wanted = release.id
            if wanted != seen:
                live.switch(await opened(settings, release, live.assistant, process))
                seen, told = wanted, ""
                _log.warning("release %s serves", wanted)
            for assistant in live.idle():
                await _close(assistant, live, process)
        except Exception as error:  # whatever is wrong with a release, the present one must go on serving
            if not isinstance(error, EngineUnavailable):  # an engine that starts will take it later
                seen = wanted
            if str(error) != told:
                _log.error("release %s stays for now: %s", live.assistant.release, error)
            told = str(error)


async def opened(settings: Settings, release: Release, before: Assistant, process: EngineProcess | None) -> Assistant:
    """The assistant of `release`; parts that `before` has too are shared.

    Raises:
        NotReady: It lacks a part, or its adapter cannot be loaded while the engine runs.
        IndexDamaged: Its index does not match its manifest.
        EngineError: The engine does not take the adapter.
    """
    index_id, adapter = releases.require(release, settings.base)
    index = before.index
    if index.id != index_id:
        index = await asyncio.to_thread(open_index, settings, index_id, before.index.encoder)
    if adapter != before.adapter:
        if settings.merged:
            raise NotReady(f"the adapter {adapter} is merged into another model; restart: assistant serve --merged")
        record, served = training_record(settings, adapter), training_record(settings, before.adapter)
        if record["recipe"]["quantize"] != served["recipe"]["quantize"]:
            raise NotReady(
                f"the adapter {adapter} was trained on other weights of {settings.base}; restart to serve it"
            )
        folder = settings.adapters / adapter
        if adapter not in await before.engine.models():
            await before.engine.load(adapter, folder)
        if process:
            process.adapters[adapter] = folder
    return replace(before, release=release.id, index=index, adapter=adapter)


def training_record(settings: Settings, adapter: str) -> dict[str, Any]:
    """How the adapter was trained, once it is known that it can be served as the settings say.

    Raises:
        NotReady: Its folder is missing, or vLLM serves it only merged.
    """
    path = settings.adapters / adapter / "training.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise NotReady(
            f"the live adapter's folder {path.parent} is missing; run: assistant train --logs FILE"
        ) from None
    if record.get("served") == "merged" and not settings.merged:
        raise NotReady(f"vLLM serves {adapter} only merged into its base; run: assistant serve --merged")
    return record


async def _close(assistant: Assistant, live: Live, process: EngineProcess | None) -> None:
    """Give back what no kept assistant shares."""
    if all(assistant.index is not kept.index for kept in live.kept):
        assistant.index.close()
    if process and all(assistant.adapter != kept.adapter for kept in live.kept):
        process.adapters.pop(assistant.adapter, None)
        await assistant.engine.unload(assistant.adapter)
