"""Releases on trial: the real service with real indexes and release files, over the benchmarks' engine."""

import asyncio
import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from aiohttp import web
from click.testing import CliRunner

from assistant import canary, releases
from assistant import live as live_module
from assistant.access import Access, add_key
from assistant.admission import Admission
from assistant.canary import Stopped, Trial, begin, dealt, end, read, stop, stop_broken, stopped
from assistant.chat import Assistant
from assistant.cli import main
from assistant.engine import Engine
from assistant.engine_process import free_port
from assistant.exchange import Service
from assistant.experiment import Bound, Experiment, Experiments, Guard, Stop, watch
from assistant.live import Live, follow
from assistant.metrics import Metrics
from assistant.policy import read_policy
from assistant.redaction import redact
from assistant.releases import Release
from assistant.service import create_app
from assistant.settings import Settings, read_settings
from assistant.state import State
from assistant.tracing import Tracer
from benchmarks.stub_engine import Pace, create_stub
from retrieval.build import build
from retrieval.errors import InputError, NotReady, StorageError
from retrieval.index import Index

NOW = datetime.now(UTC)
CUSTOMERS = [f"customer-{number}" for number in range(30)]


@pytest.fixture
def settings(tmp_path: Path, keywords, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home with the adapters a1, which serves, and a2."""
    settings = read_settings(home=tmp_path, on_sensitive_miss="adapter")
    (tmp_path / "knowledge").mkdir()
    (tmp_path / "knowledge" / "a.md").write_text("# Refunds\n\nYou can ask for a refund within 180 days.\n")
    built = build([tmp_path / "knowledge"], settings.indexes, keywords, redact)
    for name in ("a1", "a2"):
        (settings.adapters / name).mkdir(parents=True)
        (settings.adapters / name / "training.json").write_text(json.dumps({"recipe": {"quantize": "nf4"}}))
    releases.publish(settings.releases, index=built.id, adapter="a1", base=settings.base, prompt="p")
    monkeypatch.setattr(live_module, "_POLL_S", 0.05)
    monkeypatch.setattr(
        live_module, "open_index", lambda settings, name, loaded=None: Index(settings.indexes / name, keywords)
    )
    return settings


@pytest.fixture
def second(settings: Settings) -> str:
    """A proposed release of the adapter a2."""
    return releases.propose(settings.releases, adapter="a2").id


def trial(release: str, share: float = 0.0, hours: float = 1.0, **guardrails: float) -> Trial:
    bounds = {name: Bound(most=most) for name, most in guardrails.items()}
    return Trial(release=release, share=share, since=NOW, until=NOW + timedelta(hours=hours), guardrails=bounds)  # type: ignore[arg-type]


@contextlib.contextmanager
def threaded(work: Callable[[asyncio.Event, Callable[[], None]], Any]) -> Iterator[None]:
    """Run `work` in an event loop of its own; it says when it is ready, and ends when the event is set."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    ends = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(work(ends, ready.set)))
    thread.start()
    try:
        assert ready.wait(30)
        yield
    finally:
        loop.call_soon_threadsafe(ends.set)
        thread.join()
        loop.close()


@pytest.fixture
def engine_url() -> Iterator[str]:
    """An engine that serves a1, and loads no adapter twice."""
    port = free_port()

    async def serve(ends: asyncio.Event, ready: Callable[[], None]) -> None:
        runner = web.AppRunner(create_stub(["base", "a1"], Pace(chunks=3)))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        ready()
        await ends.wait()
        await runner.cleanup()

    with threaded(serve):
        yield f"http://127.0.0.1:{port}"


class Client:
    """The running service, as its callers see it."""

    def __init__(self, url: str, key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=30)

    def ask(self, model: str = "assistant", **more: Any) -> httpx.Response:
        asked = {"model": model, "messages": [{"role": "user", "content": "Can I have a refund?"}], **more}
        return self.http.post("/v1/chat/completions", json=asked)

    def adapter(self, customer: str) -> str:
        """The adapter that answers a customer; the engine writes its name into the answer."""
        reply = self.ask(user=customer).json()
        assert f"I am {reply['assistant']['adapter']}." in reply["choices"][0]["message"]["content"]
        return str(reply["assistant"]["adapter"])

    def adapters(self) -> Counter[str]:
        return Counter(map(self.adapter, CUSTOMERS))

    @property
    def ready(self) -> dict[str, Any]:
        return dict(self.http.get("/readyz").json())


@pytest.fixture
def serve(settings: Settings, engine_url: str, keywords) -> Iterator[Callable[..., Client]]:
    """Starts the service of the live release, which looks at guardrails twenty times a second."""
    with contextlib.ExitStack() as opened:
        yield lambda **options: opened.enter_context(running(settings, engine_url, keywords, **options))


@contextlib.contextmanager
def running(
    settings: Settings, engine_url: str, keywords: Any, guard: Guard = lambda *_: [], key: str | None = None
) -> Iterator[Client]:
    release = releases.live(settings.releases)
    index = Index(settings.indexes / str(release.index), keywords)
    engine = Engine(engine_url)
    assistant = Assistant(release.id, index, engine, str(release.adapter), ("en",), read_policy(), settings)
    service = Service(
        live=Live(assistant),
        access=Access(settings.keys_file),
        admission=Admission(16, 64, 30),
        state=State(settings.database_url),
        metrics=Metrics(),
        tracer=Tracer(),
        experiments=Experiments(settings.experiment_file, lambda model: assistant.arm(model) is not None),
    )

    async def beside() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(follow(service.live, settings, None))
            group.create_task(watch(partial(canary.stop_broken, settings.releases, service.state, guard), "it", 0.05))

    port = free_port()
    app = create_app(service, settings, b"secret", beside)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))

    async def work(ends: asyncio.Event, ready: Callable[[], None]) -> None:
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        ready()
        await ends.wait()
        server.should_exit = True
        await serving

    with threaded(work):
        yield Client(f"http://127.0.0.1:{port}", key)


def within(seconds: float, happened: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def serves(client: Client, release: str) -> bool:
    return client.ready["canary"] == {"release": release, "state": "serves"}


# The file


def test_a_trial_is_read_as_it_was_written_until_it_ends(settings: Settings, second: str) -> None:
    folder = settings.releases
    assert read(folder) is None
    begin(folder, trial(second, 0.1, failed=0.05))
    assert read(folder) == trial(second, 0.1, failed=0.05)
    end(folder)
    end(folder)
    assert read(folder) is None


def test_a_trial_whose_time_is_over_is_none(settings: Settings, second: str) -> None:
    begin(settings.releases, trial(second, 0.1, hours=-1))
    assert read(settings.releases) is None


def test_what_cannot_be_tried_is_refused_with_the_reason(settings: Settings, second: str) -> None:
    folder, live = settings.releases, releases.live(settings.releases)
    unsigned = releases.propose(folder, needs_approval=True, adapter="a3").id
    for name, error, told in (
        ("0" * 12, InputError, "there is no release '000000000000'"),
        (live.id, InputError, "is live already"),
        (unsigned, NotReady, "waits for a signature; run: assistant release approve"),
    ):
        with pytest.raises(error, match=told):
            begin(folder, trial(name))
    begin(folder, trial(second))
    stop(folder, second, Stopped(at=NOW, reason="the lead said so"))
    with pytest.raises(NotReady, match=r"was stopped: the lead said so; delete .*\.stopped to try it again"):
        begin(folder, trial(second))
    (folder / f"{second}.stopped").unlink()
    begin(folder, trial(second))


def test_only_what_is_on_trial_can_be_stopped(settings: Settings, second: str) -> None:
    begin(settings.releases, trial(second))
    stop(settings.releases, "0" * 12, Stopped(at=NOW, reason="late"))
    assert read(settings.releases) == trial(second) and stopped(settings.releases, "0" * 12) is None
    stop(settings.releases, second, Stopped(at=NOW, reason="bad"))
    assert read(settings.releases) is None
    assert stopped(settings.releases, second) == Stopped(at=NOW, reason="bad")


def test_a_full_disk_takes_a_release_off_trial_all_the_same(
    settings: Settings, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(settings.releases, trial(second))

    def refuse(*_: object) -> None:
        raise StorageError("no space left")

    monkeypatch.setattr(canary, "write_text", refuse)
    with pytest.raises(StorageError):
        stop(settings.releases, second, Stopped(at=NOW, reason="bad"))
    assert read(settings.releases) is None


@pytest.mark.parametrize(("old", "new"), [('"share"', '"portion"'), ("0.1", "1.0"), ("Z", ""), ("}", "")])
def test_a_damaged_file_is_named(settings: Settings, second: str, old: str, new: str) -> None:
    begin(settings.releases, trial(second, 0.1))
    path = settings.releases / "canary"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=r"releases/canary is no trial .*; delete it, and nothing is on trial"):
        read(settings.releases)


# Who gets it


def test_customers_are_dealt_by_a_hash_with_the_release_as_salt() -> None:
    """1,000 customers, a quarter of them: 250 give or take 14 by chance, and exactly these for this release."""
    quarter, half = trial("0123456789ab", 0.25), trial("0123456789ab", 0.5)
    few = {number for number in range(1_000) if dealt(quarter, "shop", f"c{number}", None, "o")}
    more = {number for number in range(1_000) if dealt(half, "shop", f"c{number}", None, "o")}
    assert (len(few), len(more)) == (239, 496)
    assert few < more
    other = {number for number in range(1_000) if dealt(trial("ba9876543210", 0.25), "shop", f"c{number}", None, "o")}
    assert len(few & other) < 100  # about a quarter of a quarter


def test_the_customer_decides_before_the_conversation_and_that_before_the_opening() -> None:
    always = trial("0123456789ab", 0.999999)

    def unit(*known: str | None) -> str:
        assigned = dealt(always, "shop", *known)  # type: ignore[arg-type]
        assert assigned is not None
        assert (assigned.name, assigned.arm, assigned.model) == ("canary-0123456789ab", "canary", "assistant")
        return assigned.unit

    assert unit("c1", "talk-1", "o1") == unit("c1", "talk-2", "o2") != unit("c2", "talk-1", "o1")
    assert unit(None, "talk-1", "o1") == unit(None, "talk-1", "o2") != unit(None, None, "o1")


def test_with_a_share_of_nothing_nobody_gets_it_and_no_guardrail_is_looked_at(settings: Settings, second: str) -> None:
    assert dealt(trial(second), "shop", "c1", None, "o") is None
    begin(settings.releases, trial(second, failed=0.05))
    stop_broken(settings.releases, None, lambda *_: pytest.fail("looked"))  # type: ignore[arg-type]


# The service


def test_a_release_on_trial_is_loaded_and_asked_by_name_only(serve, settings: Settings, second: str) -> None:
    client = serve()
    assert client.ready["canary"] is None
    assert client.ask("assistant:canary").status_code == 404
    begin(settings.releases, trial(second))
    assert within(10, lambda: serves(client, second))
    reply = client.ask("assistant:canary").json()
    assert reply["assistant"]["adapter"] == "a2" and reply["assistant"]["experiment"] is None
    assert client.adapters() == {"a1": 30}
    assert client.http.get("/v1/models/assistant:canary").status_code == 200
    end(settings.releases)
    assert within(10, lambda: client.ask("assistant:canary").status_code == 404)
    assert client.ready["canary"] is None


def test_what_is_asked_by_name_leaves_no_transcript_that_a_night_would_learn(
    serve, settings: Settings, second: str
) -> None:
    client = serve()
    begin(settings.releases, trial(second))
    assert within(10, lambda: serves(client, second))
    client.ask("assistant:canary")
    client.ask("assistant")
    state = State(settings.database_url)
    assert within(10, lambda: len(list(state.export())) == 1)
    (line,) = state.recorded(NOW)
    assert line.experiment is None
    state.close()


def test_only_an_administrators_key_may_ask_by_name(serve, settings: Settings, second: str) -> None:
    boss = add_key(settings.keys_file, "boss", admin=True)
    shop = add_key(settings.keys_file, "shop")
    client = serve(key=boss)
    begin(settings.releases, trial(second))
    assert within(10, lambda: serves(client, second))
    assert client.ask("assistant:canary").status_code == 200
    client.http.headers["Authorization"] = f"Bearer {shop}"
    assert client.ask("assistant:canary").status_code == 403
    assert client.ask("assistant").status_code == 200


def test_its_share_of_the_customers_gets_it_and_keeps_it_when_the_share_grows(
    serve, settings: Settings, second: str
) -> None:
    client = serve()
    begin(settings.releases, trial(second, 0.3))
    assert within(10, lambda: serves(client, second))
    first = {customer: client.adapter(customer) for customer in CUSTOMERS}
    assert {customer: client.adapter(customer) for customer in CUSTOMERS} == first
    assert set(first.values()) == {"a1", "a2"}
    state = State(settings.database_url)
    canaries = 2 * list(first.values()).count("a2")

    def recorded() -> Counter[tuple[str | None, str | None]]:
        return Counter((request.experiment, request.arm) for request in state.recorded(NOW))

    told = {(f"canary-{second}", "canary"): canaries, (None, None): 60 - canaries}
    assert within(10, lambda: recorded() == told)
    state.close()
    begin(settings.releases, trial(second, 0.8))
    assert within(10, lambda: client.adapters()["a2"] > list(first.values()).count("a2"))
    assert all(client.adapter(customer) == "a2" for customer, adapter in first.items() if adapter == "a2")


def test_the_canary_is_dealt_before_the_experiment_and_the_others_stay_in_it(
    serve, settings: Settings, second: str
) -> None:
    arms = {name: {"model": f"assistant:{name}", "share": 0.5} for name in ("rag", "rag+lora")}
    described = {"name": "e", "start": "2020-01-01T00:00:00Z", "salt": "s", "arms": arms}
    settings.experiment_file.write_text(json.dumps(described))
    client = serve()
    begin(settings.releases, trial(second, 0.5))
    assert within(10, lambda: serves(client, second))
    found = [client.ask(user=customer).json()["assistant"]["experiment"] for customer in CUSTOMERS]
    assert {(each["name"], each["arm"]) for each in found} == {
        (f"canary-{second}", "canary"),
        ("e", "rag"),
        ("e", "rag+lora"),
    }


def test_promotion_takes_over_what_is_loaded_and_going_back_serves_the_old_one_within_two_seconds(
    serve, settings: Settings, second: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine refuses to load an adapter twice, and the service tells what it could not do."""
    client = serve()
    begin(settings.releases, trial(second, 0.5))
    assert within(10, lambda: serves(client, second))
    seen: list[int] = []
    asking = threading.Event()

    def ask() -> None:
        while not asking.is_set():
            seen.append(client.ask(user="c1").status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    before = releases.live(settings.releases).id
    releases.promote(settings.releases, second)
    end(settings.releases)
    assert within(2, lambda: client.ready["release"] == second)
    assert client.ready["canary"] is None
    assert client.adapters() == {"a2": 30}
    releases.rollback(settings.releases)
    assert within(2, lambda: client.ready["release"] == before)
    assert client.adapters() == {"a1": 30}
    asking.set()
    thread.join()
    assert set(seen) == {200}
    assert "on trial no more" not in caplog.text and "stays for now" not in caplog.text


def test_a_guardrail_that_breaks_gives_customers_back_to_the_live_release_at_once(
    serve, settings: Settings, second: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Customers of the canary give thumbs down only; the real guard watches."""
    from eval.online import guard

    client = serve(guard=guard)
    begin(settings.releases, trial(second, 0.5, thumbs_down=0.3))
    assert within(10, lambda: serves(client, second))
    for number in range(200):
        reply = client.ask(user=f"c{number}").json()
        if reply["assistant"]["adapter"] == "a2":
            client.http.post("/v1/feedback", json={"id": reply["id"], "thumb": "down"})
        if stopped(settings.releases, second):
            break
    assert within(10, lambda: stopped(settings.releases, second) is not None)
    why = stopped(settings.releases, second)
    assert why is not None and (why.guardrail, why.most) == ("thumbs_down", 0.3)
    assert why.low is not None and why.low > 0.3 and why.units is not None and why.units >= 50
    assert within(2, lambda: read(settings.releases) is None)  # why it stopped is written before it goes
    assert within(2, lambda: client.ready["canary"] is None)
    assert client.adapters() == {"a1": 30}
    assert f"release {second} on trial is stopped: thumbs_down is 1 over" in caplog.text


def test_a_guard_that_fails_is_told_once_and_leaves_the_trial(
    settings: Settings, second: str, caplog: pytest.LogCaptureFixture
) -> None:
    begin(settings.releases, trial(second, 0.5, failed=0.1))
    looks: list[Experiment] = []

    def guard(state: State, experiment: Experiment) -> list[Stop]:
        looks.append(experiment)
        raise StorageError("the database is away")

    async def run() -> None:
        look = partial(canary.stop_broken, settings.releases, None, guard)  # type: ignore[arg-type]
        watching = asyncio.create_task(watch(look, "it", 0.01))
        while len(looks) < 3:
            await asyncio.sleep(0.01)
        watching.cancel()

    asyncio.run(run())
    assert caplog.text.count("are not watched for now: the database is away") == 1
    assert looks[0].name == f"canary-{second}" and read(settings.releases) is not None


def test_a_service_that_starts_with_something_on_trial_loads_it(serve, settings: Settings, second: str) -> None:
    begin(settings.releases, trial(second, 0.3))
    client, other = serve(), serve()
    assert within(10, lambda: serves(client, second) and serves(other, second))
    assert client.adapters() == other.adapters() and set(client.adapters()) == {"a1", "a2"}


def test_a_trial_ends_for_customers_when_its_time_is_over(serve, settings: Settings, second: str) -> None:
    until = datetime.now(UTC) + timedelta(seconds=3)
    begin(settings.releases, trial(second, 0.999).model_copy(update={"until": until}))
    client = serve()
    assert within(3, lambda: serves(client, second))
    assert within(10, lambda: client.ready["canary"] is None)
    assert client.adapters() == {"a1": 30}
    assert (settings.releases / "canary").exists()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "a2" / "training.json").unlink(), "of the adapter a2 is missing"),
        (
            lambda folder: (folder / "a2" / "training.json").write_text('{"recipe": {"quantize": "none"}}'),
            "was trained on other weights",
        ),
    ],
)
def test_what_cannot_be_loaded_is_refused_and_the_live_release_serves_on(
    serve, settings: Settings, second: str, spoil: Callable[[Path], None], told: str
) -> None:
    spoil(settings.adapters)
    client = serve()
    begin(settings.releases, trial(second, 0.5))
    assert within(10, lambda: client.ready["canary"] is not None and "refused: " in client.ready["canary"]["state"])
    assert client.ready["canary"]["release"] == second and told in client.ready["canary"]["state"]
    assert client.ask("assistant:canary").status_code == 404
    assert client.adapters() == {"a1": 30}


def test_a_damaged_file_tries_nothing_and_holds_up_no_promotion(serve, settings: Settings, second: str) -> None:
    client = serve()
    (settings.releases / "canary").write_text("{")
    assert within(10, lambda: client.ready["canary"] is not None)
    assert "refused: " in client.ready["canary"]["state"] and client.ready["canary"]["release"] is None
    releases.promote(settings.releases, second)
    assert within(10, lambda: client.ready["release"] == second)
    end(settings.releases)
    assert within(10, lambda: client.ready["canary"] is None)


def test_another_release_takes_the_place_of_the_one_on_trial(serve, settings: Settings, second: str) -> None:
    (settings.adapters / "a3").mkdir()
    (settings.adapters / "a3" / "training.json").write_text(json.dumps({"recipe": {"quantize": "nf4"}}))
    third: Release = releases.propose(settings.releases, adapter="a3")
    client = serve()
    for release, adapter in ((second, "a2"), (third.id, "a3")):
        begin(settings.releases, trial(release))
        assert within(10, lambda release=release: serves(client, release))
        assert client.ask("assistant:canary").json()["assistant"]["adapter"] == adapter


# The command line


def said(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["release", *arguments])
    return result.output


def test_the_command_line_lists_what_is_on_trial_stops_it_and_prunes_nothing_meanwhile(
    settings: Settings, second: str
) -> None:
    home = ("--home", str(settings.home))
    begin(settings.releases, trial(second, 0.1))
    assert f"{second}  (canary)" in said("list", *home)
    assert f"{second} is on trial until" in said("prune", "--keep", "1", *home)
    assert said("stop", second, *home) == f"release {second} is not on trial\n"
    assert f"{second}  (proposed)" in said("list", *home)
    why = stopped(settings.releases, second)
    assert why is not None and why.reason == "a person stopped it"
