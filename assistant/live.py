"""The release that serves, and its change while requests run.

A request keeps the release that it began with to its end; the next one gets the new release. What an old release had
to itself is closed when its last request has ended.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from assistant import releases
from assistant.chat import Assistant
from assistant.engine_process import EngineProcess
from assistant.live_index import open_index
from assistant.releases import Release
from assistant.settings import Settings
from retrieval.errors import NotReady, SupportError

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
    seen = live.assistant.release
    while True:
        await asyncio.sleep(_POLL_S)
        try:
            release = await asyncio.to_thread(releases.live, settings.releases)
            if release.id != seen:
                seen = release.id
                live.switch(await opened(settings, release, live.assistant, process))
                _log.warning("release %s serves", release.id)
            for assistant in live.idle():
                await _close(assistant, live, process)
        except SupportError as error:
            _log.error("release %s stays: %s", live.assistant.release, error)


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
        folder = settings.adapters / adapter
        if settings.merged:
            raise NotReady(f"the adapter {adapter} is merged into another model; restart: assistant serve --merged")
        if not (folder / "adapter_config.json").is_file():
            raise NotReady(f"the folder {folder} holds no adapter that vLLM can load")
        if adapter not in await before.engine.models():
            await before.engine.load(adapter, folder)
        if process:
            process.adapters[adapter] = folder
    return replace(before, release=release.id, index=index, adapter=adapter)


async def _close(assistant: Assistant, live: Live, process: EngineProcess | None) -> None:
    """Give back what no kept assistant shares."""
    if process and all(assistant.adapter != kept.adapter for kept in live.kept):
        process.adapters.pop(assistant.adapter, None)
        await assistant.engine.unload(assistant.adapter)
    if all(assistant.index is not kept.index for kept in live.kept):
        assistant.index.close()
