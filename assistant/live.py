"""The release that serves, the one on trial beside it, and their change while requests run.

A request keeps the release that it began with to its end; the next one gets the new release. What an old release had
to itself is closed when its last request has ended. A release on trial that goes live is taken over as it is, loaded.
"""

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from assistant import canary, releases
from assistant.canary import Trial
from assistant.chat import Assistant
from assistant.engine_process import EngineProcess
from assistant.live_index import open_index
from assistant.releases import Release
from assistant.settings import Settings
from retrieval.errors import EngineUnavailable, InputError, NotReady

_POLL_S = 0.5
_log = logging.getLogger("assistant")


class _Serving:
    def __init__(self, assistant: Assistant) -> None:
        self.assistant = assistant
        self.requests = 0


class Live:
    """The assistant that new requests get, the one before, the one on trial, and those that still answer requests."""

    def __init__(self, assistant: Assistant) -> None:
        self._current = _Serving(assistant)
        self._before: _Serving | None = None
        """What was live before stays loaded: an engine under load takes a new adapter after many seconds."""
        self._retired: list[_Serving] = []
        self._canary: _Serving | None = None
        self.trial: Trial | None = None
        """What is on trial, loaded or not."""
        self.refused = ""
        """Why the release on trial cannot serve, or what is on trial is not known."""

    @property
    def assistant(self) -> Assistant:
        return self._current.assistant

    @property
    def canary(self) -> Trial | None:
        """What is on trial and can be asked."""
        return self.trial if self._canary else None

    @property
    def canary_state(self) -> dict[str, str | None] | None:
        """What became of the release on trial, for who waits for it; None if there is none."""
        if self.trial is None and not self.refused:
            return None
        state = f"refused: {self.refused}" if self.refused else "serves" if self._canary else "loads"
        return {"release": self.trial.release if self.trial else None, "state": state}

    @contextmanager
    def use(self, canary: str | None = None) -> Iterator[Assistant]:
        """The assistant for a request, which stays open as long as the block runs.

        It is that of the release `canary` if this is on trial; by the time of its turn a request may be too late.
        """
        asked = self._canary if self._canary and self._canary.assistant.release == canary else None
        serving = asked or self._current
        serving.requests += 1
        try:
            yield serving.assistant
        finally:
            serving.requests -= 1

    def switch(self, assistant: Assistant) -> None:
        """Give new requests `assistant`."""
        self._succeed(_Serving(assistant))

    def can_go_back(self, release: str) -> bool:
        """Whether `release` is the one before."""
        return self._before is not None and self._before.assistant.release == release

    def go_back(self) -> None:
        """Give new requests the assistant before; the present one is then the one before."""
        assert self._before is not None, "one was live before"
        self._current, self._before = self._before, self._current

    def _succeed(self, next: _Serving) -> None:
        if self._before:
            self._retired.append(self._before)
        self._before, self._current = self._current, next

    def try_out(self, assistant: Assistant) -> None:
        """Hold `assistant` beside the current one, for those requests that are given it."""
        self._canary = _Serving(assistant)

    def take_over(self) -> None:
        """Give new requests the assistant on trial, which goes on as it is."""
        assert self._canary is not None, "one is on trial"
        self._succeed(self._canary)
        self._canary, self.trial = None, None

    def drop(self) -> None:
        """End what is on trial."""
        if self._canary:
            self._retired.append(self._canary)
        self._canary, self.trial, self.refused = None, None, ""

    def idle(self) -> list[Assistant]:
        """Assistants that no request uses any more; each is returned once."""
        idle = [serving.assistant for serving in self._retired if serving.requests == 0]
        self._retired = [serving for serving in self._retired if serving.requests > 0]
        return idle

    @property
    def kept(self) -> list[Assistant]:
        """The current assistant, the one before, the one on trial, and those that still answer."""
        beside = [serving for serving in (self._before, self._canary) if serving]
        return [serving.assistant for serving in (self._current, *beside, *self._retired)]


async def follow(live: Live, settings: Settings, process: EngineProcess | None) -> None:
    """Switch to each release that goes live, until cancelled; one that cannot serve leaves the present one."""
    wanted = seen = live.assistant.release
    told = ""
    while True:
        await asyncio.sleep(_POLL_S)
        try:
            release = await asyncio.to_thread(releases.live, settings.releases)
            wanted = release.id
            tried = live.canary is not None and live.canary.release == wanted
            if tried or wanted != seen:
                if tried:
                    live.take_over()
                elif live.can_go_back(wanted):
                    live.go_back()
                else:
                    live.switch(await opened(settings, release, live.assistant, process))
                seen, told = wanted, ""
                _log.warning("release %s serves", wanted)
            await _follow_trial(live, settings, process)
            for assistant in live.idle():
                await _close(assistant, live, process)
        except Exception as error:  # whatever is wrong with a release, the present one must go on serving
            if not isinstance(error, EngineUnavailable):  # an engine that starts will take it later
                seen = wanted
            if str(error) != told:
                _log.error("release %s stays for now: %s", live.assistant.release, error)
            told = str(error)


async def _follow_trial(live: Live, settings: Settings, process: EngineProcess | None) -> None:
    """Hold the release on trial beside the live one; one that cannot serve is refused until another is on trial."""
    try:
        trial = await asyncio.to_thread(canary.read, settings.releases)
    except InputError as error:
        if str(error) != live.refused:
            _log.error("nothing is on trial: %s", error)
        live.drop()
        live.refused = str(error)
        return
    before = live.trial
    if before and (trial is None or trial.release != before.release):
        now = await asyncio.to_thread(releases.live, settings.releases)
        if live.canary and now.id == before.release:  # promoted since the pointer was read: the next look takes it over
            return
        _log.warning("release %s is on trial no more", before.release)
    if trial is None or before is None or trial.release != before.release:
        live.drop()
    if trial is None or trial.release == live.assistant.release:
        return
    live.trial = trial
    if live.canary or live.refused:
        return
    try:
        release = await asyncio.to_thread(releases.read, settings.releases, trial.release)
        live.try_out(await opened(settings, release, live.assistant, process))
        _log.warning("release %s serves on trial", trial.release)
    except EngineUnavailable:
        return  # an engine that starts will take it later
    except Exception as error:  # whatever is wrong with it, the live one must go on serving
        live.refused = str(error)
        _log.error("release %s cannot be tried: %s", trial.release, error)


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
    try:
        if adapter != before.adapter:
            await _load(settings, adapter, before, process)
    except BaseException:  # it is tried again while the engine is down, and each time opens the index
        if index is not before.index:
            index.close()
        raise
    return replace(before, release=release.id, index=index, adapter=adapter)


async def _load(settings: Settings, adapter: str, before: Assistant, process: EngineProcess | None) -> None:
    if settings.merged:
        raise NotReady(f"the adapter {adapter} is merged into another model; restart: assistant serve --merged")
    record, served = training_record(settings, adapter), training_record(settings, before.adapter)
    if record["recipe"]["quantize"] != served["recipe"]["quantize"]:
        raise NotReady(f"the adapter {adapter} was trained on other weights of {settings.base}; restart to serve it")
    folder = settings.adapters / adapter
    if adapter not in await before.engine.models():
        await before.engine.load(adapter, folder)
    if process:
        process.adapters[adapter] = folder


def training_record(settings: Settings, adapter: str) -> dict[str, Any]:
    """How the adapter was trained, once it is known that it can be served as the settings say.

    Raises:
        NotReady: Its folder is missing, or vLLM serves it only merged, or not at all.
    """
    path = settings.adapters / adapter / "training.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise NotReady(
            f"the folder {path.parent} of the adapter {adapter} is missing; run: assistant train --logs FILE"
        ) from None
    if record.get("served") == "nowhere":
        kind = record["recipe"]["peft"].get("peft_type")
        raise NotReady(f"vLLM cannot serve {adapter}, which is of kind {kind}; make another release live")
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
