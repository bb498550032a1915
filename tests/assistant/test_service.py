"""The HTTP layer over a fake engine and a real index; the real engine answers in tests/test_end_to_end.py."""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from assistant import pause
from assistant.access import Access, add_key
from assistant.admission import Admission
from assistant.chat import Assistant
from assistant.engine import Piece, Sampling, Usage
from assistant.exchange import Service
from assistant.live import Live
from assistant.metrics import Metrics
from assistant.policy import read_policy
from assistant.prompt import ID, Message
from assistant.redaction import redact
from assistant.service import MOST_BODY_BYTES, create_app
from assistant.settings import read_settings
from assistant.state import State
from assistant.tracing import Tracer
from retrieval.build import build
from retrieval.errors import EngineError, EngineUnavailable
from retrieval.index import Index

REFUND = "# Refunds\n\n## The time limit\n\nRefunds take 5 days."
ARTICLES = {
    "en/refund.md": f"---\ntags: [money]\n---\n{REFUND}",
    "zh/退款.md": "# 退款\n\n退款需要五天。",
    "en/faq.csv": "question,answer\nWhat is the fee?,2 EUR.\n",
}


class FakeEngine:
    """Says one sentence as often as it is asked for; or is down, or fails in mid-answer."""

    def __init__(self) -> None:
        self.down = self.fails = False
        self.calls: list[dict[str, Any]] = []
        self.seen: list[Message] = []
        self.passed: dict[str, Any] = {}

    async def models(self) -> list[str]:
        if self.down:
            raise EngineUnavailable("the engine does not answer")
        return ["base", "adapter-1"]

    async def metrics(self) -> str:
        return "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 1.0\nother 2.0\n"

    async def answer(
        self, model: str, messages: list[Message], sampling: Sampling, usage: Usage, whole: bool
    ) -> AsyncIterator[Piece]:
        if self.down:
            raise EngineUnavailable("the engine does not answer")
        self.seen, self.passed = messages, dict(sampling.passed)
        choices = range(sampling.passed.get("n", 1))
        if self.calls:
            yield Piece(tool_calls=tuple(self.calls), finish_reason="tool_calls")
            return
        for text in ("Refunds ta", "ke 5 da", "ys."):
            for choice in choices:
                yield Piece(text, choice)
            if self.fails:
                raise EngineError("boom")
        usage.prompt_tokens, usage.completion_tokens = 10, 3
        for choice in choices:
            yield Piece("", choice, finish_reason="stop")

    async def likelihood(self, model: str, messages: list[Message], answer: str) -> tuple[float, int]:
        self.seen = [*messages, Message("assistant", answer)]
        return -1.5, 3

    async def close(self) -> None:
        pass


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def index(tmp_path: Path, keywords, gate_at) -> Index:
    """A search is a hit from a cosine of 0.5 on."""
    for name, text in ARTICLES.items():
        (tmp_path / "knowledge" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "knowledge" / name).write_text(text, encoding="utf-8")
    built = build([tmp_path / "knowledge"], tmp_path / "indexes", keywords, redact)
    index = Index(tmp_path / "indexes" / built.id, keywords)
    index.gate = gate_at(0.5)
    return index


@pytest.fixture
def served(index: Index, engine: FakeEngine, tmp_path: Path) -> Iterator[Any]:
    """Makes a client of a service with some settings."""
    opened = []

    def serve(access: Access | None = None, admission: Admission | None = None, **options: Any) -> TestClient:
        settings = read_settings(home=tmp_path, passages=1, max_answer_tokens=50, **options)
        assistant = Assistant("r1", index, engine, "adapter-1", ("en",), read_policy(None), settings)  # type: ignore[arg-type]
        service = Service(
            live=Live(assistant),
            access=access or Access(tmp_path / "keys.yaml"),
            admission=admission or Admission(4, 4, 1),
            state=State(settings.database_url),
            metrics=Metrics(),
            tracer=Tracer(),
        )
        client = TestClient(create_app(service, settings, b"secret"), raise_server_exceptions=False)
        opened.append(client)
        return client.__enter__()

    yield serve
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def client(served) -> TestClient:
    return served()


def body(question: str, **more: Any) -> dict[str, Any]:
    return {"model": "assistant", "messages": [{"role": "user", "content": question}], **more}


def test_a_reply_has_openais_shape_and_the_extension(client: TestClient, index: Index) -> None:
    reply = client.post("/v1/chat/completions", json=body("How long do refunds take?")).json()
    assert reply["object"] == "chat.completion"
    assert reply["choices"][0]["message"]["content"] == "Refunds take 5 days. [1]"
    assert reply["usage"] == {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}
    assert reply["assistant"] == {
        "route": "grounded",
        "citations": [
            {
                "n": 1,
                "path": "en/refund.md",
                "heading": "Refunds > The time limit",
                "quote": "Refunds take 5 days.",
                "score": 1.0,
                "start": 30,
                "end": 50,
                "place": "line 8",
            }
        ],
        "notice": reply["assistant"]["notice"],
        "reason": None,
        "decision": "hit",
        "passages": [{"path": "en/refund.md", "heading": "Refunds > The time limit", "start": 30, "end": 50}],
        "unsupported": [],
        "dropped_citations": 0,
        "degraded": [],
        "adapter": "adapter-1",
        "index": index.id,
        "release": "r1",
        "prompt": ID,
        "experiment": None,
    }
    assert reply["assistant"]["notice"]
    assert REFUND[30:50] == "Refunds take 5 days."


def test_a_stream_carries_the_extension_once_and_usage_if_asked(client: TestClient) -> None:
    asked = body("How long do refunds take?", stream=True, stream_options={"include_usage": True})
    lines = client.post("/v1/chat/completions", json=asked).text.strip().split("\n\n")
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]) == (
        "Refunds take 5 days. [1]"
    )
    assert [chunk["assistant"]["route"] for chunk in chunks if "assistant" in chunk] == ["grounded"]
    assert chunks[-1]["usage"]["total_tokens"] == 13


def test_a_card_number_reaches_neither_the_engine_nor_the_log(
    client: TestClient, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    client.post("/v1/chat/completions", json=body("refund to 4111-1111-1111-1111 please"))
    assert "<CARD_1>" in engine.seen[-1].content
    assert "4111" not in engine.seen[-1].content
    assert "route=grounded" in caplog.text
    assert "4111" not in caplog.text and "please" not in caplog.text


@pytest.mark.parametrize(
    ("request_body", "status", "message"),
    [
        ({"messages": []}, 400, "messages: "),
        (body("hi", model="gpt-5"), 404, "model 'gpt-5' does not exist"),
        (body("  "), 400, "the last message must be the user's"),
        (body("hi", temperature=9), 400, "temperature: "),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "the last message must be the user's"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages.0.role: "),
        (body("hi", n=5), 400, "n: "),
        (body("hi", stop=["a"] * 5), 400, "stop."),
        (body("hi", top_logprobs=21), 400, "top_logprobs: "),
        ({"messages": [{"role": "user", "content": "hi"}] * 201}, 400, "messages: "),
    ],
)
def test_a_bad_request_is_refused_in_openais_shape(
    client: TestClient, request_body: dict[str, Any], status: int, message: str
) -> None:
    if "model" not in request_body:
        request_body = {"model": "assistant", **request_body}
    reply = client.post("/v1/chat/completions", json=request_body)
    assert reply.status_code == status
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert reply.json()["error"]["message"].startswith(message)


@pytest.mark.parametrize(
    ("kind", "content", "told"),
    [
        ("application/json", "{", "the body is not JSON, at character 1: Expecting property name"),
        ("application/json", "[]", "the body is no JSON object; send one, with the header content-type"),
        (
            "application/x-www-form-urlencoded",
            '{"messages": []}',
            "the body is no JSON object; send one, with the header",
        ),
        ("application/json", "", "the body is no JSON object; send one, with the header"),
    ],
)
def test_no_json_is_refused_in_openais_shape(client: TestClient, kind: str, content: str, told: str) -> None:
    reply = client.post("/v1/chat/completions", content=content, headers={"content-type": kind})
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert reply.json()["error"]["message"].startswith(told)


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_is_down_is_503_with_retry_after(client: TestClient, engine: FakeEngine, stream: bool) -> None:
    engine.down = True
    reply = client.post("/v1/chat/completions", json=body("hello?", model="assistant:lora", stream=stream))
    assert reply.status_code == 503
    assert reply.headers["Retry-After"] == "5"
    assert reply.json()["error"]["code"] == "engine_unavailable"
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_passages_are_quoted_while_the_engine_is_down(client: TestClient, engine: FakeEngine, stream: bool) -> None:
    engine.down = True
    text, extension = said(client.post("/v1/chat/completions", json=body("refunds?", stream=stream)), stream)
    assert text == "From our help centre:\nRefunds take 5 days. [1]"
    assert (extension["route"], extension["degraded"]) == ("quoted", ["engine"])


def said(reply: Any, stream: bool) -> tuple[str, dict[str, Any]]:
    """Text and extension of a reply."""
    assert reply.status_code == 200, reply.text
    if not stream:
        whole = reply.json()
        return whole["choices"][0]["message"]["content"], whole["assistant"]
    lines = [line.removeprefix("data: ") for line in reply.text.strip().split("\n\n")]
    chunks = [json.loads(line) for line in lines if line != "[DONE]"]
    text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    return text, next(chunk["assistant"] for chunk in chunks if "assistant" in chunk)


def test_a_failure_in_mid_stream_is_an_error_event_and_no_done(client: TestClient, engine: FakeEngine) -> None:
    engine.fails = True
    reply = client.post("/v1/chat/completions", json=body("refunds?", stream=True))
    last = reply.text.strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"] == {
        "message": "boom",
        "type": "api_error",
        "param": None,
        "code": None,
    }
    assert client.post("/v1/chat/completions", json=body("refunds?")).status_code == 500


def test_several_answers_are_marked_each_by_itself(client: TestClient) -> None:
    choices = client.post("/v1/chat/completions", json=body("refunds?", n=2)).json()["choices"]
    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in choices] == [
        (0, "Refunds take 5 days. [1]", "stop"),
        (1, "Refunds take 5 days. [1]", "stop"),
    ]


def test_tools_and_schemas_reach_the_engine_and_json_gets_no_markers(client: TestClient, engine: FakeEngine) -> None:
    tool = {"type": "function", "function": {"name": "refund_status", "parameters": {}}}
    shape = {"type": "json_object"}
    asked = body("refunds?", tools=[tool], tool_choice="auto", response_format=shape, logprobs=True, top_logprobs=2)
    text, _ = said(client.post("/v1/chat/completions", json=asked), stream=False)
    assert text == "Refunds take 5 days."
    assert engine.passed == {
        "tools": [tool],
        "tool_choice": "auto",
        "response_format": shape,
        "logprobs": True,
        "top_logprobs": 2,
    }


def test_what_tools_replied_is_part_of_the_prompt_and_cleared_of_cards(client: TestClient, engine: FakeEngine) -> None:
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "find", "arguments": '{"card": 4111111111111111, "cvv": 7}'},
    }
    turns = [
        {"role": "user", "content": "where is my refund?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sent to 4111 1111 1111 1111"},
    ]
    reply = client.post("/v1/chat/completions", json={"messages": turns})
    assert reply.status_code == 200, reply.text
    *_, called, told = engine.seen
    assert json.loads(called.tool_calls[0]["function"]["arguments"]) == {"card": "<CARD_1>", "cvv": "<PRIVATE>"}
    assert told.content == "sent to <CARD_1>"
    turns[-1]["content"] = '{"holder": "John Smith", "pin": "4821", "days": 5}'
    client.post("/v1/chat/completions", json={"messages": turns})
    assert json.loads(engine.seen[-1].content) == {"holder": "<PRIVATE>", "pin": "<PRIVATE>", "days": 5}


def test_several_answers_in_a_stream_each_begin_and_end(client: TestClient) -> None:
    reply = client.post("/v1/chat/completions", json=body("refunds?", n=2, stream=True))
    lines = [line.removeprefix("data: ") for line in reply.text.strip().split("\n\n")]
    choices = [choice for line in lines[:-1] for choice in json.loads(line)["choices"]]
    for index in (0, 1):
        mine = [choice for choice in choices if choice["index"] == index]
        assert mine[0]["delta"]["role"] == "assistant"
        assert "".join(choice["delta"].get("content", "") for choice in mine) == "Refunds take 5 days. [1]"
        assert [choice["finish_reason"] for choice in mine if choice["finish_reason"]] == ["stop"]


def test_calls_of_tools_come_back_and_are_kept_without_cards(client: TestClient, engine: FakeEngine, tmp_path) -> None:
    engine.calls = [
        {"index": i, "id": f"c{i}", "function": {"name": name, "arguments": '{"card": "4111111111111111"}'}}
        for i, name in enumerate(("find", "block"))
    ]
    reply = client.post("/v1/chat/completions", json=body("refunds?")).json()
    calls = reply["choices"][0]["message"]["tool_calls"]
    assert [(call["id"], call["function"]["name"]) for call in calls] == [("c0", "find"), ("c1", "block")]
    assert reply["choices"][0]["finish_reason"] == "tool_calls"
    client.post("/v1/feedback", json={"id": reply["id"], "thumb": "up"})
    assert b"4111" not in (tmp_path / "state.db").read_bytes() + (tmp_path / "state.db-wal").read_bytes()


def test_no_field_of_a_request_takes_a_card_to_the_engine(client: TestClient, engine: FakeEngine) -> None:
    card = "4111111111111111"
    tool = {"type": "function", "function": {"name": "find", "description": f"cards such as {card}"}}
    call = {"id": card, "type": "function", "function": {"name": card, "arguments": json.dumps({card: [card]})}}
    turns = [
        {"role": "user", "content": "where is my refund?"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": card, "content": "found"},
    ]
    shape = {"type": "json_schema", "json_schema": {"enum": [card]}}
    asked = {"messages": turns, "tools": [tool], "response_format": shape, "stop": [card]}
    assert client.post("/v1/chat/completions", json=asked).status_code == 200
    assert card not in str(engine.seen) + str(engine.passed)


@pytest.mark.parametrize(
    "arguments", ["[" * 300 + "]" * 300, "[" * 9000, "no JSON", '{"id": 123456789012345678901234567890}']
)
def test_arguments_of_tools_may_be_anything(client: TestClient, arguments: str) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": arguments}}
    turns = [{"role": "user", "content": "where?"}, {"role": "assistant", "tool_calls": [call]}]
    turns += [{"role": "tool", "tool_call_id": "c1", "content": "found"}]
    assert client.post("/v1/chat/completions", json={"messages": turns}).status_code == 200


def test_json_is_not_quoted_while_the_engine_is_down(client: TestClient, engine: FakeEngine) -> None:
    engine.down = True
    reply = client.post("/v1/chat/completions", json=body("refunds?", response_format={"type": "json_object"}))
    assert reply.status_code == 503


# Keys, limits and load.


def test_tokens_of_a_day_are_used_up(served, tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.yaml", "shop", None, 20, False)
    client = served(Access(tmp_path / "keys.yaml"))
    known = {"Authorization": f"Bearer {key}"}
    statuses = [client.post("/v1/chat/completions", json=body("refunds?"), headers=known).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]  # 13 tokens each


def test_without_a_key_nothing_is_read(served, tmp_path: Path) -> None:
    add_key(tmp_path / "keys.yaml", "shop")
    client = served(Access(tmp_path / "keys.yaml"))
    assert client.post("/v1/chat/completions", content=b"{").status_code == 401
    assert client.get("/v1/nothing").status_code == 401
    assert client.get("/").status_code == 200


def test_tenants_cannot_touch_each_others_customers_and_replies(served, tmp_path: Path) -> None:
    keys = {name: add_key(tmp_path / "keys.yaml", name, admin=True) for name in ("a", "b")}
    client = served(Access(tmp_path / "keys.yaml"))
    as_a, as_b = ({"Authorization": f"Bearer {keys[name]}"} for name in ("a", "b"))
    reply = client.post("/v1/chat/completions", json=body("refunds?", user="auth0|1/2"), headers=as_b).json()
    assert client.post("/v1/feedback", json={"id": reply["id"], "thumb": "up"}, headers=as_a).status_code == 404
    assert client.post("/v1/feedback", json={"id": reply["id"], "thumb": "up"}, headers=as_b).status_code == 201
    assert client.delete("/v1/customers/auth0|1%2F2", headers=as_a).json() == {"deleted": 0}
    assert client.delete("/v1/customers/auth0|1%2F2?tenant=b", headers=as_a).json() == {"deleted": 1}
    assert client.get("/metrics", headers=as_a).status_code == 200


def test_with_keys_only_those_who_have_one_may_ask(served, tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.yaml", "shop", 2, None, False)
    client = served(Access(tmp_path / "keys.yaml"))
    for headers in ({}, {"Authorization": "Bearer sk-wrong"}):
        reply = client.post("/v1/chat/completions", json=body("refunds?"), headers=headers)
        assert (reply.status_code, reply.json()["error"]["type"]) == (401, "authentication_error")
        assert client.get("/v1/search", params={"q": "x"}, headers=headers).status_code == 401
    known = {"Authorization": f"Bearer {key}"}
    statuses = [client.post("/v1/chat/completions", json=body("refunds?"), headers=known) for _ in range(3)]
    assert [reply.status_code for reply in statuses] == [200, 200, 429]
    assert 1 <= int(statuses[2].headers["Retry-After"]) <= 60
    assert client.get("/metrics", headers=known).status_code == 403
    assert client.delete("/v1/customers/c", headers=known).status_code == 403
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200


def test_a_full_queue_turns_away_with_a_time_to_come_back(served) -> None:
    client = served(admission=Admission(0, 0, 1))
    reply = client.post("/v1/chat/completions", json=body("refunds?"))
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "overloaded")
    assert reply.headers["Retry-After"] == "1"


def test_a_body_that_is_too_large_is_refused(client: TestClient) -> None:
    reply = client.post("/v1/chat/completions", content=b" " * (MOST_BODY_BYTES + 1))
    assert (reply.status_code, reply.json()["error"]["type"]) == (413, "invalid_request_error")


# Feedback and transcripts.


def test_feedback_is_kept_with_its_reply(client: TestClient, tmp_path: Path) -> None:
    asked = body("refund to 4111 1111 1111 1111?", user="customer-7", metadata={"conversation": "c-1"})
    reply = client.post("/v1/chat/completions", json=asked).json()
    opinion = {"id": reply["id"], "thumb": "down", "reason": "wrong", "correction": "To 4111 1111 1111 1111: 45 days."}
    assert client.post("/v1/feedback", json=opinion).status_code == 201
    state = State(f"sqlite:///{tmp_path / 'state.db'}")
    (line,) = state.export()
    state.close()
    assert line["id"] == reply["id"] and line["route"] == "grounded"
    assert line["messages"] == [
        {"role": "user", "content": "refund to <CARD_1>?"},
        {"role": "assistant", "content": "Refunds take 5 days. [1]"},
    ]
    assert line["feedback"] == {"thumb": "down", "reason": "wrong", "correction": "To <CARD_1>: 45 days."}
    assert client.post("/v1/feedback", json={"id": reply["id"], "thumb": None}).status_code == 201
    assert client.delete("/v1/customers/customer-7").json() == {"deleted": 1}
    assert client.post("/v1/feedback", json=opinion).status_code == 404


def test_conversations_whose_ids_are_phones_stay_apart_and_unknown(client: TestClient, tmp_path: Path) -> None:
    """Each was kept as <PHONE_1>, so that all customers were in one conversation."""
    for phone in ("+86 138 0013 8000", "+86 139 0013 9000", "+86 138 0013 8000"):
        reply = client.post("/v1/chat/completions", json=body("refunds?", metadata={"conversation": phone})).json()
        client.post("/v1/feedback", json={"id": reply["id"], "thumb": "up"})  # it is on the disk by then
    state = State(f"sqlite:///{tmp_path / 'state.db'}")
    first, second, third = (it.conversation for it in state.transcripts(datetime(2020, 1, 1, tzinfo=UTC)))
    state.close()
    assert first == third != second
    assert first is not None and second is not None and not {"13800138000", "<PHONE_1>"} & {first, second}


def test_the_metrics_count_what_was_answered_and_pass_the_engines_on(client: TestClient) -> None:
    client.post("/v1/chat/completions", json=body("refunds?"))
    text = client.get("/metrics").text
    assert 'assistant_requests_total{arm="assistant",route="grounded",status="answered"} 1.0' in text
    assert 'assistant_retrieval_total{decision="hit"} 1.0' in text
    assert "assistant_ready 1.0" in text
    assert 'assistant_tokens_total{kind="completion"} 3.0' in text
    assert 'assistant_citations_total{outcome="kept"} 1.0' in text
    assert "vllm:num_requests_running 1.0" in text and "\nother" not in text


def test_the_metrics_say_while_a_night_keeps_the_engine_stopped(client: TestClient, tmp_path: Path) -> None:
    with pause.stopped(tmp_path, "a night trains", longest_s=1):
        assert "assistant_engine_paused 1.0" in client.get("/metrics").text
    assert "assistant_engine_paused 0.0" in client.get("/metrics").text


def test_it_is_ready_when_the_engine_serves_the_adapter(client: TestClient, index: Index) -> None:
    reply = client.get("/readyz")
    assert reply.status_code == 200
    parts = {"release": "r1", "adapter": "adapter-1", "index": index.id, "base": "smollm2-135m"}
    told = reply.json()
    assert len(told.pop("answers_by")) == 12
    assert told == {"ready": True, **parts, "prompts": {"plain": ID}, "canary": None}


def test_what_answers_depend_on_has_another_name_with_another_setting(served) -> None:
    names = {served(**options).get("/readyz").json()["answers_by"] for options in ({}, {}, {"withhold_figures": True})}
    assert len(names) == 2


def test_search_says_what_it_found_and_how_it_decided(client: TestClient) -> None:
    search = client.get("/v1/search", params={"q": "refund"}).json()
    assert (search["hit"], search["decision"]) == (True, "hit")
    assert 0.5 <= search["probability"] <= 1 and search["why"]
    best = search["found"][0]
    assert (best["score"], best["dense"]) == (1.0, 1.0) and 0 < best["lexical"] < 1
    assert best["passage"] == {
        "id": best["passage"]["id"],
        "path": "en/refund.md",
        "article": "en/refund.md",
        "title": "Refunds",
        "heading": "The time limit",
        "text": "Refunds take 5 days.",
        "language": "en",
        "start": 30,
        "end": 50,
        "place": "line 8",
        "tags": ["money"],
        "question": False,
    }
    search = client.get("/v1/search", params={"q": "weather", "count": 1}).json()
    assert (search["hit"], search["decision"], len(search["found"])) == (False, "miss", 1)


def test_a_card_number_that_is_searched_for_is_never_embedded(client: TestClient, keywords) -> None:
    assert client.get("/v1/search", params={"q": "refund to 4111 1111 1111 1111"}).status_code == 200
    assert keywords.seen[-1] == "refund to <CARD_1>"


@pytest.mark.parametrize(
    ("limit", "found"),
    [
        ({"lang": "zh"}, ["zh/退款.md"]),
        ({"tag": "money"}, ["en/refund.md"]),
        ({"folder": "zh"}, ["zh/退款.md"]),
        ({"folder": "en/faq.csv"}, ["en/faq.csv#2"]),
        ({"lang": "en", "tag": "money", "folder": "en"}, ["en/refund.md"]),
        ({}, ["en/refund.md", "en/faq.csv#2", "zh/退款.md"]),
    ],
)
def test_a_search_can_be_limited(client: TestClient, limit: dict[str, str], found: list[str]) -> None:
    search = client.get("/v1/search", params={"q": "refund", **limit}).json()
    assert [entry["passage"]["path"] for entry in search["found"]] == found


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"q": "refund", "tag": "none"}, "no passage matches the filter"),
        ({"q": "refund", "folder": "none"}, "no passage matches the filter"),
        ({"q": "refund", "lang": "zh", "tag": "money"}, "no passage matches the filter"),
        ({"q": "refund", "lang": "fr"}, "query.lang: "),
        ({"q": "refund", "count": "0"}, "query.count: "),
        ({"q": "refund", "count": "51"}, "query.count: "),
        ({"q": "refund", "tag": "x" * 201}, "query.tag: "),
        ({"q": ""}, "query.q: "),
        ({}, "query.q: "),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_openais_shape(
    client: TestClient, asked: dict[str, str], message: str
) -> None:
    reply = client.get("/v1/search", params=asked)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["type"] == "invalid_request_error" and error["message"].startswith(message)


def test_an_article_is_what_was_indexed_and_no_path_leads_outside(client: TestClient) -> None:
    article = {"path": "en/refund.md", "title": "Refunds", "language": "en", "text": REFUND}
    assert client.get("/v1/articles/en/refund.md").json() == article
    for path in ("../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "en/none.md", "en", ""):
        assert client.get(f"/v1/articles/{path}").status_code == 404
    error = client.get("/v1/articles/en/none.md").json()["error"]
    assert (error["type"], error["message"]) == ("invalid_request_error", "the index has no article 'en/none.md'")


def test_the_entry_of_a_list_and_a_chinese_name_are_articles_too(client: TestClient) -> None:
    entry = client.get("/v1/articles/en/faq.csv%232").json()
    assert (entry["title"], entry["text"]) == ("What is the fee?", "2 EUR.")
    assert client.get("/v1/articles/zh/退款.md").json()["language"] == "zh"


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "frame-ancestors 'self';" in page.headers["Content-Security-Policy"]
    script = client.get("/page/chat.js")
    assert (script.status_code, script.headers["Cache-Control"]) == (200, "public, max-age=300")
    assert client.get("/page/../service.py").status_code == 404
    assert "http://" not in page.text and "https://" not in page.text


def test_sites_that_may_embed_the_widget_are_a_setting(served) -> None:
    client = served(embed_origins=("https://shop.example",))
    assert "frame-ancestors 'self' https://shop.example;" in client.get("/").headers["Content-Security-Policy"]


def test_a_merged_adapter_is_offered_without_the_arms_that_lack_it(served) -> None:
    client = served(merged=True)
    names = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert names == ["assistant", "assistant:rag+lora", "assistant:lora", "assistant:quoted"]
    refused = client.post("/v1/chat/completions", json=body("Refunds?", model="assistant:rag"))
    assert refused.status_code == 404
    assert "one of: assistant, assistant:rag+lora, assistant:lora" in refused.text


def test_the_openapi_names_keys_errors_and_examples(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert described["security"] == [{"key": []}, {}]
    chat = described["paths"]["/v1/chat/completions"]["post"]
    assert {"200", "400", "401", "404", "413", "429", "500", "503"} <= set(chat["responses"])
    assert described["components"]["schemas"]["ChatRequest"]["examples"]
    assert described["components"]["schemas"]["Feedback"]["examples"]


def test_the_models_are_the_ways_to_answer(client: TestClient) -> None:
    names = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert names == [
        "assistant",
        "assistant:rag+lora",
        "assistant:rag",
        "assistant:lora",
        "assistant:base",
        "assistant:quoted",
    ]


def test_the_likelihood_of_an_answer_is_asked_of_the_model_with_the_passages(
    client: TestClient, engine: FakeEngine
) -> None:
    asked = body("How long do refunds take?", answer="Mail me at ann@example.com within 5 days.")
    assert client.post("/v1/likelihood", json=asked).json() == {"log_probability": -1.5, "tokens": 3}
    assert "Refunds take 5 days." in engine.seen[-2].content
    assert engine.seen[-1].content == "Mail me at <EMAIL_1> within 5 days."


def test_where_no_model_answers_an_answer_has_no_likelihood(client: TestClient) -> None:
    asked = body("My card was stolen!", answer="Oh no.")
    assert client.post("/v1/likelihood", json=asked).json() == {"log_probability": None, "tokens": 0}


def test_a_prompt_that_is_not_there_is_named_with_those_that_are(client: TestClient) -> None:
    refused = client.post("/v1/chat/completions", json=body("Refunds?", model="assistant:rag@long"))
    assert refused.status_code == 404 and "one of: plain" in refused.json()["error"]["message"]


def test_the_arm_that_quotes_asks_no_model(client: TestClient, engine: FakeEngine) -> None:
    reply = client.post("/v1/chat/completions", json=body("How long do refunds take?", model="assistant:quoted"))
    assert reply.json()["assistant"]["route"] == "quoted"
    assert engine.seen == []
