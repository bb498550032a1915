"""Replies replayed from their release: service, index and tokenizer are real; in the last test the engine is, too."""

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fastapi.testclient import TestClient

from assistant import prompt, releases
from assistant import replay as replays
from assistant.access import Access
from assistant.admission import Admission
from assistant.base_models import load_tokenizer, served_folder
from assistant.chat import Assistant
from assistant.cli import main
from assistant.engine import Engine
from assistant.engine_process import EngineProcess
from assistant.exchange import Service
from assistant.live import Live
from assistant.metrics import Metrics
from assistant.policy import read_policy
from assistant.prompt import Message
from assistant.prompts import read_prompts
from assistant.redaction import redact_article
from assistant.replay import Replay, lines, replay
from assistant.service import create_app
from assistant.settings import Settings, read_settings
from assistant.state import State
from assistant.tracing import Tracer
from finetune.recipe import Recipe
from finetune.run import train_on_logs
from retrieval.build import build
from retrieval.errors import EngineError, InputError, NotReady, UnknownReply
from retrieval.index import Index

ADAPTER = "a1"
QUESTION = "How long does a refund take?"
PROMPTS = "terse: {instructions: Answer in three words.}\n"


class ReadingEngine(ThreadingHTTPServer):
    """Says the last line of the passages, or `instead`, or calls a tool; its tokenizer is the base's."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tokenizer, self.instead, self.models = tokenizer, "", ["base", ADAPTER]
        self.tells_ids, self.calls, self.first_id, self.down = True, False, None, False
        self.asked: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: ReadingEngine

    def do_GET(self) -> None:
        self._send({"data": [{"id": name} for name in self.server.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.down:
            return
        asked = [Message(**{**message, "content": message["content"] or ""}) for message in body["messages"]]
        tokens = prompt.tokens(self.server.tokenizer, asked, body.get("tools", ()))
        if self.server.first_id is not None:
            tokens[0] = self.server.first_id
        self.server.asked.append(body)
        passages, _, _ = body["messages"][-1]["content"].partition("\n\n")
        message: dict[str, Any] = {"content": self.server.instead or passages.splitlines()[-1]}
        if self.server.calls:
            call = {"name": "status", "arguments": '{"payment": "P-7"}'}
            message = {"content": None, "tool_calls": [{"id": f"c{len(self.server.asked)}", "function": call}]}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        told = {"choices": [choice], "usage": {"prompt_tokens": len(tokens), "completion_tokens": 5}}
        assert body["return_token_ids"]
        self._send(told | ({"prompt_token_ids": tokens} if self.server.tells_ids else {}))

    def _send(self, body: dict[str, Any]) -> None:
        told = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *arguments: object) -> None:
        pass


@dataclass(frozen=True)
class Company:
    """A home whose live release has an index over one article and an adapter."""

    settings: Settings
    encoder: Any
    folder: Path

    def index(self, article: str) -> None:
        path = self.folder / "knowledge" / "en" / "refund.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"---\nlanguage: en\n---\n# Refunds\n\n{article}\n")
        built = build([self.folder / "knowledge"], self.settings.indexes, self.encoder, redact_article)
        releases.publish(self.settings.releases, index=built.id)

    def ask(self, engine: str, question: str = QUESTION, model: str = "assistant", **more: Any) -> str:
        """The id of the answer that the service of the live release gives."""
        release, settings = releases.live(self.settings.releases), self.settings
        assistant = Assistant(
            release=release.id,
            index=replays.open_index(settings, str(release.index)),
            engine=Engine(engine),
            adapter=str(release.adapter),
            languages=settings.base_languages or ("en", "zh"),
            policy=read_policy(settings.policy),
            settings=settings,
            prompts=read_prompts(settings.prompts),
        )
        service = Service(
            live=Live(assistant),
            access=Access(settings.keys_file),
            admission=Admission(4, 4, 1),
            state=State(settings.database_url),
            metrics=Metrics(),
            tracer=Tracer(),
        )
        body = {"model": model, "messages": [{"role": "user", "content": question}], **more}
        with TestClient(create_app(service, settings, b"secret")) as client:
            reply = client.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, reply.text
        if not more.get("stream"):
            return str(reply.json()["id"])
        return str(json.loads(reply.text.split("\n\n")[0].removeprefix("data: "))["id"])


@pytest.fixture
def engine(smollm: Path) -> Iterator[ReadingEngine]:
    server = ReadingEngine(load_tokenizer(str(smollm)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def company(tmp_path: Path, smollm: Path, keywords, gate_at, monkeypatch: pytest.MonkeyPatch) -> Company:
    """A search is a hit from a cosine of 0.5 on; the base writes English only."""

    def opened(settings: Settings, name: str) -> Index:
        index = Index(settings.indexes / name, keywords)
        index.gate = gate_at(0.5)
        return index

    monkeypatch.setattr(replays, "open_index", opened)
    (tmp_path / "prompts.yaml").write_text(PROMPTS)
    settings = read_settings(
        home=tmp_path, base=str(smollm), base_languages=("en",), passages=1, prompts=tmp_path / "prompts.yaml"
    )
    (settings.adapters / ADAPTER).mkdir(parents=True)
    releases.publish(settings.releases, adapter=ADAPTER, base=settings.base, prompt=prompt.ID)
    made = Company(settings, keywords, tmp_path)
    made.index("A refund takes 5 days.")
    return made


def replayed(company: Company, reply: str, engine: ReadingEngine) -> Replay:
    return replay(company.settings, reply, lambda text: None, engine.url)


def command(company: Company, *arguments: str) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("base", "passages", "prompts"):
            patch.setenv(f"ASSISTANT_{name.upper()}", str(getattr(company.settings, name)))
        patch.setenv("ASSISTANT_BASE_LANGUAGES", '["en"]')
        return CliRunner().invoke(main, ["replay", "--home", str(company.settings.home), *arguments])


def test_a_reply_is_the_same_again_and_every_part_of_its_prompt_is(company: Company, engine: ReadingEngine) -> None:
    reply = company.ask(engine.url)
    done = replayed(company, reply, engine)
    assert done.same and done.changed == ()
    assert done.now == done.then and done.now.text == "A refund takes 5 days. [1]"
    assert done.now.prompt_tokens_id == done.tokens_id and len(done.tokens) == done.then.prompt_tokens > 50
    assert lines(done) == [
        "route    grounded",
        f"prompt   the same: messages {done.then.asked}",
        f"tokens   the same: {len(done.tokens)} ids, by the engine then and now, and by the tokenizer",
        "text     the same: 26 characters",
        "the same",
    ]


def test_the_engine_is_asked_as_it_was_then_and_redacted_texts_stay_as_they_are(
    company: Company, engine: ReadingEngine
) -> None:
    given = {"temperature": 0.5, "seed": 7, "stop": ["4111 1111 1111 1111"], "max_tokens": 9, "frequency_penalty": 1}
    reply = company.ask(engine.url, "A refund to 4111 1111 1111 1111, how long does it take?", **given)
    assert replayed(company, reply, engine).same
    then, now = engine.asked
    assert now == then and "<CARD_1>" in str(now["messages"]) and "4111" not in str(now)
    assert (now["stop"], now["seed"], now["max_tokens"], now["frequency_penalty"]) == (["<CARD_1>"], 7, 9, 1)


def test_a_later_index_does_not_change_what_was_answered_before(company: Company, engine: ReadingEngine) -> None:
    before = company.ask(engine.url)
    company.index("A refund takes 9 days.")
    after = company.ask(engine.url)
    done = replayed(company, before, engine)
    assert done.same and done.now.text == "A refund takes 5 days. [1]"
    assert replayed(company, after, engine).now.text == "A refund takes 9 days. [1]"
    assert done.release != releases.live(company.settings.releases).id


def test_a_prompt_that_was_rewritten_since_is_named(company: Company, engine: ReadingEngine) -> None:
    reply = company.ask(engine.url, model="assistant:rag@terse")
    (company.folder / "prompts.yaml").write_text(PROMPTS.replace("three", "seven times three"))
    done = replayed(company, reply, engine)
    assert not done.same and done.changed == ("prompt",)
    assert done.then.asked != done.now.asked and done.then.text == done.now.text
    assert "changed  prompt texts" in lines(done)
    assert f"prompt   differs: messages {done.then.asked} then, {done.now.asked} now" in lines(done)
    assert (done.then.prompt_tokens, done.now.prompt_tokens) == (len(done.tokens) - 2, len(done.tokens))
    assert any(line.startswith("tokens   differ: ") for line in lines(done))


def test_a_prompt_that_is_gone_is_asked_for(company: Company, engine: ReadingEngine) -> None:
    reply = company.ask(engine.url, model="assistant:rag@terse")
    (company.folder / "prompts.yaml").write_text("{}")
    with pytest.raises(InputError, match="asked for as 'assistant:rag@terse', which is not known any more"):
        replayed(company, reply, engine)


def test_settings_that_changed_are_named_and_do_not_matter_where_nothing_differs(
    company: Company, engine: ReadingEngine
) -> None:
    reply = company.ask(engine.url)
    changed = company.settings.model_copy(update={"passages": 2})  # there is only one
    done = replay(changed, reply, lambda text: None, engine.url)
    assert (done.changed, done.same) == (("answers_by",), True)
    assert "changed  code or settings" in lines(done)


def test_another_text_is_shown_from_where_it_differs(company: Company, engine: ReadingEngine) -> None:
    reply = company.ask(engine.url, temperature=0.5)
    engine.instead = "A refund takes 6 days."
    done = replayed(company, reply, engine)
    assert (done.same, done.same_tokens, done.first_difference) == (False, True, 15)
    assert lines(done)[-3:] == [
        "text     differs after 15 characters: '5 days. [1]' then, '6 days.' now",
        "         it was sampled at temperature 0.5, and may differ by chance",
        "not the same",
    ]


@pytest.mark.parametrize(
    ("question", "model", "route"),
    [
        (QUESTION, "assistant:quoted", "quoted"),
        ("I want to talk to a human", "assistant", "handoff"),
        ("What is the fee?", "assistant", "handoff"),
        ("你好吗？", "assistant", "handoff"),
    ],
)
def test_what_no_model_wrote_needs_no_engine_and_no_adapter(
    company: Company, question: str, model: str, route: str
) -> None:
    reply = company.ask("http://127.0.0.1:9", question, model)
    shutil.rmtree(company.settings.adapters)
    done = replay(company.settings, reply, lambda text: None)
    assert done.same and (done.then.route, done.tokens) == (route, ())
    assert "prompt   none: no model was asked" in lines(done)


def test_what_was_quoted_because_the_engine_was_down_is_quoted_again(company: Company) -> None:
    done = replay(company.settings, company.ask("http://127.0.0.1:9"), lambda text: None)
    assert done.same and (done.now.route, done.now.degraded) == ("quoted", ("engine",))


def test_what_was_handed_over_and_would_not_be_now_is_another_route(company: Company) -> None:
    reply = company.ask("http://127.0.0.1:9", "What is the fee?")
    changed = company.settings.model_copy(update={"on_sensitive_miss": "adapter"})
    done = replay(changed, reply, lambda text: None)
    assert not done.same and lines(done)[:2] == ["route    handoff then, adapter now", "changed  code or settings"]


@pytest.mark.parametrize("part", ["index", "adapter"])
def test_a_release_that_was_pruned_says_which_part_is_gone(company: Company, engine: ReadingEngine, part: str) -> None:
    reply, settings = company.ask(engine.url), company.settings
    release = releases.live(settings.releases)
    (settings.releases / "pruned").mkdir(exist_ok=True)
    path = settings.releases / f"{release.id}.json"
    path.rename(settings.releases / "pruned" / path.name)
    assert replayed(company, reply, engine).same  # as long as its parts are kept
    name = str(getattr(release, part))
    shutil.rmtree(settings.home / {"index": "indexes", "adapter": "adapters"}[part] / name)
    with pytest.raises(NotReady, match=f"the {part} {name} of the release {release.id}, which was pruned, is gone"):
        replayed(company, reply, engine)


def test_what_cannot_be_replayed_says_why(company: Company, engine: ReadingEngine) -> None:
    with pytest.raises(UnknownReply, match="there is no reply 'chatcmpl-0'"):
        replayed(company, "chatcmpl-0", engine)
    reply = company.ask(engine.url)
    engine.models = ["base"]
    with pytest.raises(NotReady, match="does not serve the adapter a1 but base; leave out --url"):
        replayed(company, reply, engine)
    state = State(company.settings.database_url)
    whole = state.transcript(reply)
    for name, made in (("old", {"usage": {}}), ("cut", {**whole.made, "status": "cancelled"})):
        state.record(type(whole)(**{**vars(whole), "id": name, "made": made}))
    state.close()
    with pytest.raises(InputError, match="was recorded without its sampling or the token ids of its prompt"):
        replayed(company, "old", engine)
    with pytest.raises(InputError, match="the reply cut was cancelled before its end"):
        replayed(company, "cut", engine)


def test_an_engine_that_tells_no_token_ids_is_named(company: Company, engine: ReadingEngine) -> None:
    reply = company.ask(engine.url)
    engine.tells_ids = False
    with pytest.raises(EngineError, match="tells no token ids of a prompt; leave out --url"):
        replayed(company, reply, engine)
    with pytest.raises(InputError, match="of an engine that tells none"):
        replayed(company, company.ask(engine.url), engine)


def test_other_token_ids_of_the_engine_are_not_the_same_and_each_is_named(
    company: Company, engine: ReadingEngine
) -> None:
    reply = company.ask(engine.url)
    engine.first_id = 7
    other = company.ask(engine.url)
    of_then, of_both = replayed(company, reply, engine), replayed(company, other, engine)
    assert not of_then.same_tokens and of_then.then.prompt_tokens_id == of_then.tokens_id
    assert not of_both.same_tokens and of_both.then.prompt_tokens_id == of_both.now.prompt_tokens_id
    mine, its, count = of_both.tokens_id, of_both.now.prompt_tokens_id, len(of_both.tokens)
    told = f"now {count} by the engine ({its}), {count} by the tokenizer ({mine})"
    assert f"tokens   differ: {count} ids then ({its}); {told}" in lines(of_both)


def test_what_is_quoted_now_since_the_engine_went_away_is_compared(company: Company, engine: ReadingEngine) -> None:
    reply = company.ask(engine.url)
    engine.down = True
    done = replayed(company, reply, engine)
    assert not done.same and (done.now.route, done.now.prompt_tokens_id) == ("quoted", None)
    assert "changed  what failed" in lines(done)


def test_the_prompt_of_an_engine_that_died_before_its_first_sentence_does_not_count(company: Company) -> None:
    reply = company.ask("http://127.0.0.1:9")
    state = State(company.settings.database_url)
    kept = state.transcript(reply)
    usage = {**kept.made["usage"], "prompt_tokens_id": "0123456789ab"}
    state.record(type(kept)(**{**vars(kept), "id": "died", "made": {**kept.made, "usage": usage}}))
    state.close()
    assert replay(company.settings, "died", lambda text: None).same


def test_a_call_of_a_tool_is_compared_without_its_id(company: Company, engine: ReadingEngine) -> None:
    tools = [{"type": "function", "function": {"name": "status", "parameters": {"type": "object", "properties": {}}}}]
    engine.calls = True
    reply = company.ask(engine.url, tools=tools)
    done = replayed(company, reply, engine)
    assert done.same and done.now.text == 'status({"payment": "P-7"})', done
    engine.calls = False
    assert replayed(company, reply, engine).first_difference == 0


def test_the_command_prints_the_comparison_and_ends_with_1_if_anything_differs(
    company: Company, engine: ReadingEngine
) -> None:
    reply = company.ask(engine.url)
    done = command(company, reply, "--url", engine.url)
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "the same"), done.output
    shown = json.loads(command(company, reply, "--url", engine.url, "--json").stdout)
    assert (shown["same"], shown["changed"], shown["first_difference"]) == (True, [], None)
    assert len(shown["tokens"]) == shown["now"]["prompt_tokens"] and shown["then"] == shown["now"]
    engine.instead = "No."
    done = command(company, reply, "--url", engine.url)
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (1, "not the same")


def test_a_real_engine_writes_the_same_again_and_so_does_another_one_after_the_article_changed(
    tmp_path: Path, tiny_base: Path, models: Path, encoder: Any
) -> None:
    """In fp32, without a fake; the model is random, so that its text tells the least difference of a prompt."""
    settings = read_settings(
        home=tmp_path, base=str(tiny_base), passages=1, max_answer_tokens=30, engine_dtype="float32"
    )
    settings.models.symlink_to(models)
    company = Company(settings, encoder, tmp_path)
    company.index("You can request a refund within 45 days of the payment.")
    logs = tmp_path / "logs.jsonl"
    asked = ("How long can I ask for a refund?", "until when are refunds possible", "refund deadline?")
    said = ({"role": "assistant", "content": "Refunds are possible within 45 days of the payment."},)
    logs.write_text("".join(json.dumps({"messages": [{"role": "user", "content": q}, *said]}) + "\n" for q in asked))
    train_on_logs(settings, [logs], Recipe(peft={"r": 2}, max_steps=1, canaries=0, general_share=0), lambda text: None)
    adapter = str(releases.live(settings.releases).adapter)
    process = EngineProcess(
        settings,
        served_folder(settings.base, settings.models, "nf4"),
        adapter,
        settings.adapters / adapter,
        settings.logs / "engine.log",
    )
    question = "Within how many days can I request a refund?"
    try:
        process.start()
        reply, streamed = (company.ask(process.url, question, stream=stream) for stream in (False, True))
        first, second = (replay(settings, each, lambda text: None, process.url) for each in (reply, streamed))
    finally:
        process.stop()
    assert first.same and second.same, (first, second)
    assert first.then.route == "grounded" and len(first.tokens) == first.then.prompt_tokens > 50
    assert first.then.text == second.then.text and first.tokens == second.tokens
    company.index("You can request a refund within 90 days of the payment.")
    again = replay(settings, reply, lambda text: None)
    assert again.same and (again.tokens, again.now) == (first.tokens, first.then)
