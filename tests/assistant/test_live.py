"""Releases change while requests run: real index folders and release files, an engine that only counts its adapters."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from assistant import live as live_module
from assistant import releases
from assistant.chat import ARMS, Assistant, Outcome
from assistant.engine import Piece, Sampling, Usage
from assistant.engine_process import EngineProcess
from assistant.live import Live, follow
from assistant.policy import read_policy
from assistant.prompt import Message
from assistant.redaction import redact
from assistant.settings import Settings, read_settings
from assistant.tracing import Span
from retrieval.build import build
from retrieval.errors import EngineError, EngineUnavailable
from retrieval.index import Index


class LoadingEngine:
    """Serves the adapters that it was told to load; each answer is the name of its adapter, in two pieces."""

    def __init__(self) -> None:
        self.adapters = ["a1"]
        self.down = False

    async def models(self) -> list[str]:
        if self.down:
            raise EngineUnavailable("the engine does not answer")
        return ["base", *self.adapters]

    async def load(self, adapter: str, folder: Path) -> None:
        self.adapters.append(adapter)

    async def unload(self, adapter: str) -> None:
        self.adapters.remove(adapter)

    async def answer(
        self, model: str, messages: list[Message], sampling: Sampling, usage: Usage, whole: bool
    ) -> AsyncIterator[Piece]:
        for text in (model[0], model[1:]):
            if model not in self.adapters:
                raise EngineError(f"{model} is not loaded")
            yield Piece(text)
        yield Piece(finish_reason="stop")


@pytest.fixture
def settings(tmp_path: Path, keywords, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home with the adapters a1, a2 and b1, and the release of a1 live."""
    settings = read_settings(home=tmp_path, on_sensitive_miss="adapter")
    (tmp_path / "knowledge").mkdir()
    (tmp_path / "knowledge" / "a.md").write_text("# Refunds\n\nA refund takes 90 days.\n")
    built = build([tmp_path / "knowledge"], settings.indexes, keywords, redact)
    for name in ("a1", "a2", "b1"):
        (settings.adapters / name).mkdir(parents=True)
        (settings.adapters / name / "adapter_config.json").write_text(json.dumps({"r": 8}))
        (settings.adapters / name / "training.json").write_text(json.dumps({"recipe": {"quantize": "nf4"}}))
    releases.publish(settings.releases, index=built.id, adapter="a1", base=settings.base, prompt="p")
    monkeypatch.setattr(live_module, "_POLL_S", 0.01)
    monkeypatch.setattr(
        live_module, "open_index", lambda settings, name, loaded: Index(settings.indexes / name, keywords)
    )
    return settings


def served(settings: Settings, keywords: Any) -> tuple[Live, LoadingEngine, EngineProcess]:
    release = releases.live(settings.releases)
    engine = LoadingEngine()
    index = Index(settings.indexes / str(release.index), keywords)
    assistant = Assistant(release.id, index, engine, "a1", ("en",), read_policy(), settings)  # type: ignore[arg-type]
    process = EngineProcess(settings, "model", "a1", settings.adapters / "a1", settings.logs / "engine.log")
    return Live(assistant), engine, process


def followed(
    settings: Settings, keywords: Any, work: Callable[[Live, LoadingEngine], Awaitable[None]]
) -> EngineProcess:
    """Do `work` while releases are followed."""

    async def run() -> EngineProcess:
        live, engine, process = served(settings, keywords)
        following = asyncio.create_task(follow(live, settings, process))
        try:
            await work(live, engine)
        finally:
            following.cancel()
        return process

    return asyncio.run(run())


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not happened():
            await asyncio.sleep(0.01)


async def ask(live: Live, between: Callable[[], Awaitable[None]]) -> tuple[str, str]:
    """An answer, and the adapter that the release says it is from; `between` happens after the first piece."""
    with live.use() as assistant:
        question = [Message("user", "hello there")]
        pieces = assistant.answer(question, ARMS["assistant:lora"], Sampling(9), Outcome(), Span(None, None))
        text = (await anext(pieces)).text
        await between()
        return text + "".join([piece.text async for piece in pieces]), assistant.adapter


def test_an_answer_ends_on_the_adapter_that_it_began_with(settings: Settings, keywords) -> None:
    async def work(live: Live, engine: LoadingEngine) -> None:
        async def change() -> None:
            for adapter in ("a2", "b1"):
                releases.publish(settings.releases, adapter=adapter)
                await until(lambda adapter=adapter: live.assistant.adapter == adapter)
                assert await ask(live, between=nothing) == (adapter, adapter)
            assert engine.adapters == ["a1", "a2", "b1"]

        assert await ask(live, between=change) == ("a1", "a1")
        await until(lambda: engine.adapters == ["a2", "b1"])

    assert list(followed(settings, keywords, work).adapters) == ["a2", "b1"]


def test_what_was_live_before_stays_loaded_to_go_back_to(settings: Settings, keywords) -> None:
    """Under load an engine on a CPU took up an adapter after seventeen seconds, and with it each rollback."""

    async def work(live: Live, engine: LoadingEngine) -> None:
        releases.publish(settings.releases, adapter="a2")
        await until(lambda: live.assistant.adapter == "a2")
        engine.down = True  # nothing can be loaded
        releases.rollback(settings.releases)
        await until(lambda: live.assistant.adapter == "a1")
        releases.rollback(settings.releases)
        await until(lambda: live.assistant.adapter == "a2")

    followed(settings, keywords, work)


async def nothing() -> None:
    pass


def test_going_back_and_forth_fifty_times_never_mixes_adapters(settings: Settings, keywords) -> None:
    async def work(live: Live, engine: LoadingEngine) -> None:
        async def asking() -> None:
            for _ in range(300):
                text, adapter = await ask(live, between=lambda: asyncio.sleep(0.002))
                assert text == adapter

        async def switching() -> None:
            releases.publish(settings.releases, adapter="a2")
            for _ in range(50):
                releases.rollback(settings.releases)
                await asyncio.sleep(0.02)

        await asyncio.gather(asking(), asking(), asking(), switching())

    followed(settings, keywords, work)


def test_a_new_index_serves_and_the_adapter_stays_loaded(settings: Settings, keywords, tmp_path: Path) -> None:
    async def work(live: Live, engine: LoadingEngine) -> None:
        (tmp_path / "knowledge" / "b.md").write_text("# Fees\n\nThe fee is 2 EUR.\n")
        built = build([tmp_path / "knowledge"], settings.indexes, keywords, redact)
        releases.publish(settings.releases, index=built.id)
        await until(lambda: live.assistant.index.id == built.id)
        assert engine.adapters == ["a1"]

    followed(settings, keywords, work)


@pytest.mark.parametrize("broken", [{"adapter": "a3"}, {"index": "i3"}, {"base": "another"}])
def test_a_release_that_cannot_serve_leaves_the_present_one(
    settings: Settings, keywords, broken: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    async def work(live: Live, engine: LoadingEngine) -> None:
        before = live.assistant.release
        releases.publish(settings.releases, **broken)
        await until(lambda: f"release {before} stays for now" in caplog.text)
        assert await ask(live, between=nothing) == ("a1", "a1")
        releases.publish(settings.releases, adapter="a2", index=live.assistant.index.id, base=settings.base)
        await until(lambda: live.assistant.adapter == "a2")

    followed(settings, keywords, work)


@pytest.mark.parametrize("record", [{"served": "merged", "recipe": {}}, {"recipe": {"quantize": "none"}}])
def test_an_adapter_of_other_weights_is_not_loaded_beside(
    settings: Settings, keywords, record: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    (settings.adapters / "a2" / "training.json").write_text(json.dumps(record))

    async def work(live: Live, engine: LoadingEngine) -> None:
        releases.publish(settings.releases, adapter="a2")
        await until(lambda: " stays for now: " in caplog.text)
        assert (live.assistant.adapter, engine.adapters) == ("a1", ["a1"])

    followed(settings, keywords, work)


def test_a_release_that_goes_live_while_the_engine_is_down_serves_once_it_is_back(
    settings: Settings, keywords, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(live: Live, engine: LoadingEngine) -> None:
        engine.down = True
        releases.publish(settings.releases, adapter="a2")
        await until(lambda: "the engine does not answer" in caplog.text)
        await asyncio.sleep(0.05)
        assert caplog.text.count("the engine does not answer") == 1
        engine.down = False
        await until(lambda: live.assistant.adapter == "a2")

    followed(settings, keywords, work)


def test_following_goes_on_after_a_surprise(settings: Settings, keywords, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(live: Live, engine: LoadingEngine) -> None:
        def refuse(folder: Path) -> None:
            raise OSError(24, "too many open files")

        with monkeypatch.context() as patch:
            patch.setattr(releases, "live", refuse)
            await asyncio.sleep(0.05)
        releases.publish(settings.releases, adapter="a2")
        await until(lambda: live.assistant.adapter == "a2")

    followed(settings, keywords, work)
