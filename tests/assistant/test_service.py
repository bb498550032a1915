"""The HTTP layer over a fake engine and a real index; the real engine answers in tests/test_end_to_end.py."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from assistant.chat import Assistant
from assistant.engine import Sampling, Usage
from assistant.prompt import Message
from assistant.redaction import redact
from assistant.service import create_app
from retrieval.build import build
from retrieval.errors import EngineUnavailable
from retrieval.index import Index

REFUND = "# Refunds\n\n## The time limit\n\nRefunds take 5 days."
ARTICLES = {
    "en/refund.md": f"---\ntags: [money]\n---\n{REFUND}",
    "zh/退款.md": "# 退款\n\n退款需要五天。",
    "en/faq.csv": "question,answer\nWhat is the fee?,2 EUR.\n",
}


class FakeEngine:
    """Says one sentence; or is down."""

    def __init__(self) -> None:
        self.down = False
        self.seen: list[Message] = []

    async def models(self) -> list[str]:
        if self.down:
            raise EngineUnavailable("the engine does not answer")
        return ["base", "adapter-1"]

    async def stream(self, model: str, messages: list[Message], sampling: Sampling, usage: Usage) -> AsyncIterator[str]:
        if self.down:
            raise EngineUnavailable("the engine does not answer")
        self.seen = messages
        for piece in ("Refunds ta", "ke 5 da", "ys."):
            yield piece
        usage.prompt_tokens, usage.completion_tokens = 10, 3

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
def client(engine: FakeEngine, index: Index) -> Iterator[TestClient]:
    assistant = Assistant(index, engine, "adapter-1", ("en",), passages=1)  # type: ignore[arg-type]
    with TestClient(create_app(assistant, most_tokens=50)) as client:
        yield client


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
        "adapter": "adapter-1",
        "index": index.id,
    }
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
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role: "),
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


def test_no_json_is_refused_in_openais_shape(client: TestClient) -> None:
    reply = client.post("/v1/chat/completions", content=b"{")
    assert reply.status_code == 400
    assert "error" in reply.json()


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_is_down_is_503_with_retry_after(client: TestClient, engine: FakeEngine, stream: bool) -> None:
    engine.down = True
    reply = client.post("/v1/chat/completions", json=body("refunds?", stream=stream))
    assert reply.status_code == 503
    assert reply.headers["Retry-After"] == "5"
    assert reply.json()["error"]["code"] == "engine_unavailable"
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200


def test_it_is_ready_when_the_engine_serves_the_adapter(client: TestClient, index: Index) -> None:
    reply = client.get("/readyz")
    assert reply.status_code == 200
    assert reply.json() == {"ready": True, "adapter": "adapter-1", "index": index.id}


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
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    assert "http://" not in page.text and "https://" not in page.text


def test_a_merged_adapter_is_offered_without_the_arms_that_lack_it(engine: FakeEngine, index: Index) -> None:
    assistant = Assistant(index, engine, "adapter-1", ("en",), passages=1, merged=True)  # type: ignore[arg-type]
    with TestClient(create_app(assistant, most_tokens=50)) as client:
        names = [model["id"] for model in client.get("/v1/models").json()["data"]]
        assert names == ["assistant", "assistant:rag+lora", "assistant:lora"]
        refused = client.post("/v1/chat/completions", json=body("Refunds?", model="assistant:rag"))
        assert refused.status_code == 404
        assert "one of: assistant, assistant:rag+lora, assistant:lora" in refused.text


def test_the_models_are_the_ways_to_answer(client: TestClient) -> None:
    names = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert names == ["assistant", "assistant:rag+lora", "assistant:rag", "assistant:lora", "assistant:base"]
