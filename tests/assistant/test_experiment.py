"""The experiment file, who gets which arm, and the service that answers by it, over the engine of test_service.py."""

import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from test_service import FakeEngine, body, said

from assistant import experiment as module
from assistant.access import Access
from assistant.admission import Admission
from assistant.chat import Assistant
from assistant.exchange import Service
from assistant.experiment import (
    Experiment,
    Experiments,
    Stop,
    assign,
    opening,
    read_experiment,
    read_stops,
    stops_path,
    watch,
    write_stops,
)
from assistant.live import Live
from assistant.metrics import Metrics
from assistant.policy import read_policy
from assistant.prompt import Message
from assistant.prompts import read_prompts
from assistant.service import create_app
from assistant.settings import read_settings
from assistant.state import State
from assistant.tracing import Tracer
from retrieval.errors import InputError

pytest_plugins = ["test_service"]

FILE = """\
name: lora-2026-11
start: 2020-01-01T00:00:00+08:00
salt: 8f1c
arms:
  rag: {model: "assistant:rag", share: 0.5}
  rag+lora: {model: "assistant:rag+lora", share: 0.5}
guardrails:
  thumbs_down: {most: 0.3}
"""
BROKEN = Stop(
    experiment="lora-2026-11",
    arm="rag+lora",
    at=datetime(2026, 11, 26, tzinfo=UTC),
    guardrail="thumbs_down",
    mean=0.5,
    low=0.4,
    most=0.3,
    units=300,
)
OPENING = "6f2e"


def changed(**fields: Any) -> Experiment:
    return Experiment.model_validate(yaml.safe_load(FILE) | fields)


def shares(experiment: Experiment) -> Counter[str | None]:
    """Of 10,000 customers."""
    return Counter(assign(experiment, f"customer-{number}") for number in range(10_000))


def any_model(model: str) -> bool:
    return True


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "experiment.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def reread_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REREAD_S", 0)


# Who gets which arm


def test_customers_are_dealt_to_the_arms_in_their_shares() -> None:
    three = {"a": {"model": "assistant", "share": 0.2}, "b": {"model": "assistant:rag", "share": 0.5}}
    found = shares(changed(arms=three | {"c": {"model": "assistant:base", "share": 0.3}}))
    assert {name: round(count / 10_000, 1) for name, count in found.items()} == {"a": 0.2, "b": 0.5, "c": 0.3}
    assert 1_850 < found["a"] < 2_150


def test_a_customer_keeps_the_arm_and_another_salt_or_name_deals_anew() -> None:
    experiment = changed()
    arms = [assign(experiment, f"customer-{number}") for number in range(1_000)]
    assert arms == [assign(changed(), f"customer-{number}") for number in range(1_000)]
    for other in (changed(salt="other"), changed(name="other")):
        same = sum(assign(other, f"customer-{number}") == arm for number, arm in enumerate(arms))
        assert 430 < same < 570  # half of them by chance


def test_a_holdout_takes_its_share_and_moves_nobody_between_the_arms() -> None:
    held = changed(holdout=0.1)
    assert 900 < shares(held)[None] < 1_100
    for number in range(1_000):
        assert assign(held, f"customer-{number}") in (None, assign(changed(), f"customer-{number}"))


def test_the_customer_decides_before_the_conversation_and_that_before_the_first_message(path: Path) -> None:
    experiments = Experiments(path, any_model)

    def unit(customer: str | None, conversation: str | None, question: str, tenant: str = "shop") -> str:
        assigned = experiments.assignment(tenant, customer, conversation, question)
        assert assigned is not None
        return assigned.unit

    assert unit("c1", "talk-1", "refund?") == unit("c1", "talk-2", "fees?") != unit("c2", "talk-1", "refund?")
    assert unit(None, "talk-1", "refund?") == unit(None, "talk-1", "fees?") != unit(None, "talk-2", "refund?")
    assert unit(None, None, "refund?") == unit(None, None, "refund?") != unit(None, None, "fees?")
    assert unit(None, "talk-1", "refund?") != unit(None, "talk-1", "refund?", tenant="mall")


def test_who_is_held_out_is_recorded_so_and_gets_the_assistant(path: Path) -> None:
    path.write_text(FILE + "holdout: 0.5\n")
    experiments = Experiments(path, any_model)
    found = [experiments.assignment("shop", f"c{number}", None, OPENING) for number in range(50)]
    ways = {(assigned.arm, assigned.model) for assigned in found if assigned}
    assert ways == {("rag", "assistant:rag"), ("rag+lora", "assistant:rag+lora"), ("holdout", "assistant")}


def test_the_same_opening_has_another_name_for_each_tenant_and_secret() -> None:
    said = [Message("system", "Be brief."), Message("user", "hi"), Message("assistant", "Hello"), Message("user", "4")]
    assert opening("shop", said, b"s") == opening("shop", [Message("user", "hi")], b"s")
    assert len({opening(*asked) for asked in (("shop", said, b"s"), ("mall", said, b"s"), ("shop", said, b"t"))}) == 3


def test_before_the_start_and_after_the_end_nobody_is_in_an_arm(path: Path) -> None:
    for times in ({"start": "2999-01-01T00:00:00+08:00"}, {"end": "2020-01-02T00:00:00+08:00"}):
        path.write_text(yaml.safe_dump(yaml.safe_load(FILE) | times))
        assigned = Experiments(path, any_model).assignment("shop", "c1", None, OPENING)
        assert assigned is not None and (assigned.arm, assigned.model) == (None, "assistant")


# The file


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("salt: 8f1c\n", "", r"experiment\.yaml entry 'salt': Field required"),
        ("share: 0.5}\n  rag+", "share: 0.6}\n  rag+", r"is wrong: .*the shares of the arms come to 1.1; make them 1"),
        ("+08:00", "", "entry 'start': Input should have timezone info"),
        ("salt: 8f1c", "salt: 8f1c\nend: 2019-01-01T00:00:00+08:00", "end 2019-.* is not after start 2020-"),
        ("thumbs_down", "thumbs", r"entry 'guardrails.thumbs.\[key\]': Input should be 'thumbs_down'"),
        ("most: 0.3", "least: 0.3", "entry 'guardrails.thumbs_down.most': Field required"),
        ("salt", "pepper: 1\nsalt", "entry 'pepper': Extra inputs are not permitted"),
        ("rag+lora: {", "a very long name of an arm: {", r"entry 'arms.a very long"),
        (FILE, "", "is wrong: Input should be a valid dictionary"),
        ("  rag: {", "  holdout: {", "'holdout' is what those without an arm are recorded as"),
        ("arms:", "arms: [", "cannot be read: while parsing"),
        ("salt: 8f1c", "salt: 8f1c\nend: 2026-11-31T00:00:00+08:00", "cannot be read: day is out of range"),
    ],
)
def test_a_broken_file_is_refused_with_its_name_and_the_entry(path: Path, old: str, new: str, message: str) -> None:
    assert old in FILE
    path.write_text(FILE.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError, match=message) as error:
        read_experiment(path)
    assert str(path) in str(error.value)


def test_an_arm_that_nothing_answers_as_is_refused(path: Path) -> None:
    with pytest.raises(InputError, match=r"entry 'arms.rag\+lora.model': 'assistant:rag\+lora' is no way to answer"):
        Experiments(path, lambda model: model == "assistant:rag")


def test_the_file_is_followed_and_a_broken_edit_keeps_the_last_good_one_and_is_logged_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    experiments = Experiments(path, any_model)

    def name() -> str | None:
        assigned = experiments.assignment("shop", "c1", None, OPENING)
        return assigned and assigned.name

    assert name() == "lora-2026-11"
    path.write_text("name: [")
    assert [name() for _ in range(3)] == ["lora-2026-11"] * 3
    assert caplog.text.count("the experiment stays as it was") == 1
    path.write_text(FILE.replace("lora-2026-11", "next"))
    assert name() == "next"
    path.unlink()
    assert name() is None
    assert "the experiment is now: none" in caplog.text


def test_a_stop_survives_a_restart_until_people_delete_it(path: Path) -> None:
    write_stops(path, [BROKEN])
    write_stops(path, [BROKEN.model_copy(update={"experiment": "another", "arm": "rag"})])
    assert read_stops(path)[0] == BROKEN
    experiments = Experiments(path, any_model)

    def arms() -> set[str | None]:
        found = [experiments.assignment("shop", f"c{number}", None, OPENING) for number in range(50)]
        return {assigned.arm for assigned in found if assigned}

    assert arms() == {"rag", None}
    stops_path(path).unlink()
    assert arms() == {"rag", "rag+lora"}


def test_an_arm_stays_stopped_where_the_disk_refuses_to_keep_it_until_it_does(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edit of the file, of its comments even, set the arm free, and nobody tried to keep the stop again."""
    experiments = Experiments(path, any_model)

    def arms() -> set[str | None]:
        found = [experiments.assignment("shop", f"c{number}", None, OPENING) for number in range(50)]
        return {assigned.arm for assigned in found if assigned}

    def refuse(*_: object) -> None:
        raise OSError("read-only")

    with monkeypatch.context() as refusing:
        refusing.setattr(module, "write_stops", refuse)
        with pytest.raises(OSError, match="read-only"):
            experiments.stop(None, lambda state, experiment: [BROKEN])  # type: ignore[arg-type]
    assert arms() == {"rag", None}
    path.write_text(FILE + "# raised soon\n")
    assert arms() == {"rag", None}
    path.write_text(FILE.replace("lora-2026-11", "next"))
    assert arms() == {"rag", "rag+lora"}
    path.write_text(FILE)
    for _ in range(2):
        experiments.stop(None, lambda state, experiment: [BROKEN])  # type: ignore[arg-type]
    assert read_stops(path) == (BROKEN,)
    assert arms() == {"rag", None}


def test_stops_that_cannot_be_read_are_refused(path: Path) -> None:
    stops_path(path).write_text("- arm: rag\n")
    with pytest.raises(InputError, match=r"stops .*experiment-stops.yaml entry '0.experiment': Field required"):
        Experiments(path, any_model)


# The service


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(f"sqlite:///{tmp_path}/state.db")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def experimenting(index, engine: FakeEngine, path: Path, state: State, metrics: Metrics):
    """Makes a client of a service with the experiment, and with a guard that looks every 10 ms."""
    opened = []

    def serve(
        guard: Callable[[State, Experiment], list[Stop]] | None = None, serves: Callable[[str], bool] | None = None
    ) -> TestClient:
        settings = read_settings(home=path.parent, passages=1, max_answer_tokens=50)
        assistant = Assistant(
            "r1", index, engine, "adapter-1", ("en",), read_policy(None), settings, read_prompts(None)
        )
        experiments = Experiments(path, serves or (lambda model: assistant.arm(model) is not None))
        service = Service(
            live=Live(assistant),
            access=Access(path.parent / "keys.yaml"),
            admission=Admission(4, 4, 1),
            state=state,
            metrics=metrics,
            tracer=Tracer(),
            experiments=experiments,
        )
        background = (lambda: watch(partial(experiments.stop, state, guard), "it", 0.01)) if guard else None
        client = TestClient(create_app(service, settings, b"secret", background), raise_server_exceptions=False)
        opened.append(client)
        return client.__enter__()

    yield serve
    for client in opened:
        client.__exit__(None, None, None)


def arm_of(client: TestClient, stream: bool = False, **more: Any) -> str | None:
    _, extension = said(client.post("/v1/chat/completions", json=body("refunds?", stream=stream, **more)), stream)
    assert extension["experiment"] is None or extension["experiment"]["name"] == "lora-2026-11"
    return extension["experiment"] and extension["experiment"]["arm"]


def test_a_conversation_keeps_its_arm_streamed_or_whole_however_it_is_known(experimenting, state: State) -> None:
    client = experimenting()
    seen = set()
    for number in range(12):
        known = [{"user": f"c{number}"}, {"metadata": {"conversation": f"talk-{number}"}}, {}][number % 3]
        messages: list[dict[str, str]] = []
        arms = set()
        for turn in range(4):
            messages += [{"role": "user", "content": f"refunds? I am number {number}, turn {turn}"}]
            asked = {"model": "assistant", "messages": messages, "stream": turn % 2 == 0, **known}
            text, extension = said(client.post("/v1/chat/completions", json=asked), stream=turn % 2 == 0)
            messages += [{"role": "assistant", "content": text}]
            arms.add(extension["experiment"]["arm"])
        assert len(arms) == 1
        seen |= arms
    assert seen == {"rag", "rag+lora"}
    recorded = list(state.recorded(datetime(2026, 1, 1, tzinfo=UTC)))
    assert len(recorded) == 48 and len({request.unit for request in recorded}) == 12


def test_the_arm_answers_and_the_model_that_was_asked_for_is_in_the_reply(experimenting, engine: FakeEngine) -> None:
    client = experimenting()
    models = {}

    async def noting(model: str, *rest: Any) -> Any:
        models["asked"] = model
        async for piece in FakeEngine.answer(engine, model, *rest):
            yield piece

    engine.answer = noting  # type: ignore[method-assign]
    for number in range(8):
        reply = client.post("/v1/chat/completions", json=body("refunds?", user=f"c{number}")).json()
        assert reply["model"] == "assistant"
        arm = reply["assistant"]["experiment"]["arm"]
        assert models["asked"] == {"rag": "base", "rag+lora": "adapter-1"}[arm]


def test_who_asks_for_an_arm_by_name_is_not_in_the_experiment(experimenting) -> None:
    client = experimenting()
    reply = client.post("/v1/chat/completions", json=body("refunds?", model="assistant:rag+lora")).json()
    assert reply["assistant"]["experiment"] is None


def test_requests_and_thumbs_are_counted_by_arm(experimenting) -> None:
    client = experimenting()
    reply = client.post("/v1/chat/completions", json=body("refunds?", user="c1")).json()
    client.post("/v1/feedback", json={"id": reply["id"], "thumb": "down"})
    text, arm = client.get("/metrics").text, reply["assistant"]["experiment"]["arm"]
    assert f'assistant_experiment_requests_total{{arm="{arm}"}} 1.0' in text
    assert f'assistant_experiment_feedback_total{{arm="{arm}",thumb="down"}} 1.0' in text


def test_a_request_that_failed_is_recorded_for_its_arm(experimenting, engine: FakeEngine, state: State) -> None:
    """Nothing of a request that failed before its first word was kept: an arm that always failed looked spotless."""
    client = experimenting()
    engine.down = True
    asked = body("refunds?", user="c1", response_format={"type": "json_object"})
    assert client.post("/v1/chat/completions", json=asked).status_code == 503
    (request,) = state.recorded(datetime(2026, 1, 1, tzinfo=UTC))
    assert request.status == "failed" and request.arm in ("rag", "rag+lora")
    assert list(state.export()) == []


def test_a_card_number_in_the_first_message_is_in_no_record(experimenting, state: State, path: Path) -> None:
    client = experimenting()
    client.post("/v1/chat/completions", json=body("refund to 4111 1111 1111 1111?"))
    state.flush()
    (request,) = state.recorded(datetime(2026, 1, 1, tzinfo=UTC))
    said = [Message("user", "refund to 4111 1111 1111 1111?")]
    assert request.opening == opening("local", said, b"secret") != opening("local", said, b"another")
    assert not any(b"4111" in kept.read_bytes() for kept in path.parent.glob("state.db*"))


def test_an_arm_that_the_release_does_not_serve_is_not_recorded(experimenting, state: State, path: Path) -> None:
    """The default arm answered, and its answers were counted as those of the experiment's arm."""
    path.write_text(FILE.replace("assistant:rag+lora", "assistant:rag@gone"))
    client = experimenting(serves=any_model)
    assert {arm_of(client, user=f"c{number}") for number in range(12)} == {"rag", None}
    recorded = list(state.recorded(datetime(2026, 1, 1, tzinfo=UTC)))
    assert {(request.arm, request.experiment) for request in recorded} == {
        ("rag", "lora-2026-11"),
        (None, "lora-2026-11"),
    }


def test_an_arm_that_breaks_a_guardrail_is_stopped_and_its_customers_get_the_assistant(
    experimenting, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The planted arm gets thumbs down only; the real guard watches."""
    from eval.online import guard

    client = experimenting(guard)
    customers = [f"c{number}" for number in range(240)]
    before = {}
    for customer in customers:
        reply = client.post("/v1/chat/completions", json=body("refunds?", user=customer)).json()
        before[customer] = reply["assistant"]["experiment"] and reply["assistant"]["experiment"]["arm"]
        thumb = "down" if before[customer] == "rag+lora" else "up"
        client.post("/v1/feedback", json={"id": reply["id"], "thumb": thumb})
    deadline = time.monotonic() + 30
    while not read_stops(path):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (stop,) = read_stops(path)
    assert (stop.arm, stop.guardrail, stop.most) == ("rag+lora", "thumbs_down", 0.3)
    assert stop.low > 0.3 and stop.units >= 50
    assert "arm rag+lora of lora-2026-11 is stopped: thumbs_down is at least" in caplog.text
    after = {customer: arm_of(client, user=customer) for customer in customers[:40]}
    assert set(after.values()) == {"rag", None}
    assert all(before[customer] == "rag" for customer, arm in after.items() if arm == "rag")
