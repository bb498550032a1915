"""Nights whose challenger is tried in a running service: its own engine, and a pointer that it follows."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from test_nightly import Company, Engine

from assistant import canary, releases
from assistant import live as live_module
from assistant.access import Access, add_key
from assistant.admission import Admission
from assistant.canary import SLACK, Stopped, Trial
from assistant.chat import Assistant
from assistant.engine_process import free_port
from assistant.exchange import Service
from assistant.experiment import Experiment, Guard, Stop, watch
from assistant.live import Live, follow
from assistant.live_index import open_index
from assistant.metrics import Metrics
from assistant.policy import read_policy
from assistant.service import create_app
from assistant.state import State
from assistant.tracing import Tracer
from finetune import nightly, nights, rollout
from finetune.plan import read_plan
from retrieval.errors import EngineError, InputError

pytest_plugins = ["test_nightly"]

GOLDEN = '{"id": "g1", "query": "How long is a refund?", "facts": ["5 days"]}\n'


class CustomersEngine(Engine):
    """Loads adapters when it is told to, if it has room."""

    def __init__(self, company: Company) -> None:
        super().__init__(lambda adapter: True, company.settings.adapters)
        self.loaded, self.room = [str(company.first.adapter)], 2

    async def models(self) -> list[str]:
        return self.loaded

    async def load(self, adapter: str, folder: Path) -> None:
        if len(self.loaded) == self.room:
            raise EngineError("no room for another adapter")
        self.loaded.append(adapter)


@contextlib.contextmanager
def customers(company: Company, engine: Engine, guard: Guard = lambda *_: []) -> Iterator[str]:
    """The address of a service of the live release that follows what goes live and on trial."""
    settings, release = company.settings, company.live
    assistant = Assistant(
        release=release.id,
        index=open_index(settings, str(release.index)),
        engine=engine,  # type: ignore[arg-type]
        adapter=str(release.adapter),
        languages=("en",),
        policy=read_policy(None),
        settings=settings,
    )
    service = Service(
        live=Live(assistant),
        access=Access(settings.keys_file),
        admission=Admission(4, 4, 1),
        state=State(settings.database_url),
        metrics=Metrics(),
        tracer=Tracer(),
    )

    async def beside() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(follow(service.live, settings, None))
            group.create_task(watch(partial(canary.stop_broken, settings.releases, service.state, guard), "it", 0.05))

    app = create_app(service, settings, b"secret", beside)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=settings.port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        yield f"http://127.0.0.1:{settings.port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def tried(company: Company, monkeypatch: pytest.MonkeyPatch) -> Company:
    """A company whose nights ask a golden question, and look twenty times a second."""
    (company.folder / "golden.jsonl").write_text(GOLDEN)
    company.plan(golden=["golden.jsonl"])
    monkeypatch.setattr(rollout, "_LOOK_S", 0.05)
    monkeypatch.setattr(live_module, "_POLL_S", 0.05)
    return company


def on_customers(company: Company, hours: float = 0.001, **guardrails: Any) -> None:
    """Plan to give the challenger to half of the customers, by default for 3.6 seconds."""
    company.plan(golden=["golden.jsonl"], canary={"share": 0.5, "hours": hours, "guardrails": guardrails})


def test_a_challenger_is_asked_in_the_service_and_serves_there_when_the_night_ends(tried: Company) -> None:
    engine = CustomersEngine(tried)
    with customers(tried, engine) as url:
        night = tried.night()
        assert night is not None and night.word == "promoted", night
        assert engine.asked == 1 and engine.loaded == [tried.first.adapter, night.adapter]
        assert rollout._parts(url)["release"] == night.challenger == tried.live.id
        assert not any("service" in reason for reason in night.reasons)
        assert canary.read(tried.settings.releases) is None
        assert tried.night() is None  # what was asked there is nothing new to learn from


def test_customers_get_a_challenger_that_has_to_be_signed_once_it_is(tried: Company) -> None:
    tried.plan(golden=["golden.jsonl"], signature=True)
    with customers(tried, CustomersEngine(tried)) as url:
        night = tried.night()
        assert night is not None and night.word == "waiting"
        assert rollout._parts(url)["release"] == tried.first.id and canary.read(tried.settings.releases) is None
        releases.approve(tried.settings.releases, str(night.challenger), "lead")
        releases.promote(tried.settings.releases, str(night.challenger))
        ends = time.monotonic() + 10
        while rollout._parts(url)["release"] != night.challenger:
            assert time.monotonic() < ends
            time.sleep(0.05)


def test_without_a_service_the_reasons_say_so(tried: Company) -> None:
    night = tried.night()
    assert night is not None and night.word == "promoted"
    assert night.reasons[-1].startswith(f"no service at http://127.0.0.1:{tried.settings.port} serves the live release")


def test_a_golden_question_that_is_missed_in_the_service_keeps_the_champion(tried: Company) -> None:
    """The night's own engine had answered it."""
    engine = CustomersEngine(tried)
    engine.good = lambda adapter: adapter == tried.first.adapter
    with customers(tried, engine) as url:
        night = tried.night()
        assert night is not None and (night.word, tried.live) == ("kept", tried.first)
        assert night.reasons == ["golden question g1: a fact is missing in the answer of the service"]
        assert night.metrics["facts"] == 0.0  # the champion's, which serves on
        assert releases.waits(tried.settings.releases, str(night.challenger))
        assert canary.read(tried.settings.releases) is None
        assert rollout._parts(url)["release"] == tried.first.id


def test_a_challenger_that_the_service_cannot_load_is_kept_with_its_reason(tried: Company) -> None:
    engine = CustomersEngine(tried)
    engine.room = 1
    with customers(tried, engine):
        night = tried.night()
    assert night is not None and (night.word, tried.live) == ("kept", tried.first)
    assert "refused: no room for another adapter" in night.reasons[0]


def test_customers_get_the_challenger_for_its_time_before_it_goes_live(tried: Company) -> None:
    on_customers(tried)
    began = datetime.now(UTC)
    with customers(tried, CustomersEngine(tried)):
        night = tried.night()
    assert night is not None and night.word == "promoted"
    assert any(f"50.0% of the customers get {night.challenger} until" in line for line in tried.said)
    assert datetime.now(UTC) - began > timedelta(seconds=3.6)


def test_a_challenger_that_breaks_a_guardrail_on_customers_is_kept_with_the_figures(tried: Company) -> None:
    def broken(state: State, experiment: Experiment) -> list[Stop]:
        figures = {"guardrail": "handoff", "mean": 0.6, "low": 0.5, "most": 0.4, "units": 80}
        return [Stop(experiment=experiment.name, arm="canary", at=datetime.now(UTC), **figures)]  # type: ignore[arg-type]

    on_customers(tried, hours=1, handoff={"most": 0.4})
    with customers(tried, CustomersEngine(tried), broken):
        night = tried.night()
    assert night is not None and (night.word, tried.live) == ("kept", tried.first)
    told = "was stopped: handoff is 0.6 over 80 customers: it is at least 0.5, and 0.4 is allowed"
    assert night.reasons == [f"the release {night.challenger} {told}"]
    assert canary.read(tried.settings.releases) is None


@pytest.mark.slow
def test_a_person_may_take_the_challenger_off_trial(tried: Company) -> None:
    on_customers(tried, hours=1)
    folder = tried.settings.releases

    def listening(line: str) -> None:
        if "of the customers get" in line:
            trial = canary.read(folder)
            assert trial is not None
            canary.stop(folder, trial.release, Stopped(at=datetime.now(UTC), reason="boss stopped it"))

    with customers(tried, CustomersEngine(tried)):
        night = night_that_says(tried, listening)
    assert night is not None and (night.word, tried.live) == ("kept", tried.first)
    assert night.reasons == [f"the release {night.challenger} was stopped: boss stopped it"]


def test_a_night_that_was_killed_while_customers_had_the_challenger_goes_on_with_the_trial(tried: Company) -> None:
    on_customers(tried)

    def killed(line: str) -> None:
        if "of the customers get" in line:
            raise KeyboardInterrupt

    folder = tried.settings.releases
    with customers(tried, CustomersEngine(tried)):
        with pytest.raises(KeyboardInterrupt):
            night_that_says(tried, killed)
        left = canary.read(folder)
        assert left is not None and left.share == 0.5
        seen: list[Trial | None] = []
        night = night_that_says(tried, lambda line: seen.append(canary.read(folder)))
        assert night is not None and (night.word, tried.live.id) == ("promoted", left.release)
    assert {trial.until for trial in seen if trial} == {left.until}
    assert nights.read_all(tried.settings.home / "nights") == [night]
    assert canary.read(folder) is None and not (folder / "canary").exists()


def test_what_a_killed_night_left_on_trial_is_taken_away_by_the_next(tried: Company) -> None:
    folder = tried.settings.releases
    left = releases.propose(folder, adapter="another")
    now = datetime.now(UTC)
    canary.begin(folder, Trial(release=left.id, share=0.5, since=now, until=now + SLACK))
    tried.plan(least_answers=50)
    night = tried.night()
    assert night is not None and night.word == "kept" and not (folder / "canary").exists()
    canary.begin(folder, Trial(release=left.id, share=0.5, since=now, until=now - SLACK))
    assert tried.night() is None and not (folder / "canary").exists()


def test_a_service_that_is_named_must_answer(tried: Company) -> None:
    tried.plan(service=f"http://127.0.0.1:{free_port()}")
    night = tried.night()
    assert night is not None and (night.word, tried.live) == ("failed", tried.first)
    assert "nothing answers at http://127.0.0.1" in night.reasons[0]
    with customers(tried, CustomersEngine(tried)) as url:
        tried.plan(service=url)
        again = tried.night()
    assert again is not None and (again.word, again.id) == ("promoted", night.id)


@pytest.mark.slow
def test_a_service_with_keys_is_asked_with_the_key_of_an_administrator(
    tried: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSISTANT_API_KEY", add_key(tried.settings.keys_file, "shop"))
    boss = add_key(tried.settings.keys_file, "boss", admin=True)
    with customers(tried, CustomersEngine(tried)):
        night = tried.night()
        assert night is not None and night.word == "failed" and "403" in night.reasons[0]
        assert not (tried.settings.releases / "canary").exists()
        monkeypatch.setenv("ASSISTANT_API_KEY", boss)
        assert tried.night().word == "promoted"  # type: ignore[union-attr]


@pytest.mark.parametrize("fields", [{"share": 0.1}, {"hours": 2}, {"share": 1, "hours": 2}, {"guardrails": {"x": {}}}])
def test_a_trial_that_is_none_is_refused_with_its_field(tmp_path: Path, fields: dict[str, Any]) -> None:
    (tmp_path / "nightly.yaml").write_text(json.dumps({"cases": ["a"], "canary": fields}))
    with pytest.raises(InputError, match="field 'canary"):
        read_plan(tmp_path / "nightly.yaml")


def night_that_says(company: Company, say: Callable[[str], None]) -> nights.Night | None:
    return nightly.nightly(company.settings, read_plan(company.folder / "nightly.yaml"), say)
