"""The command line as users meet it: each command is a process of its own."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from assistant.cli import main
from assistant.releases import live, publish

ROOT = Path(__file__).parent.parent.parent
HEAVY = (
    *("torch", "transformers", "faiss", "vllm", "sentence_transformers", "fastapi", "pydantic"),
    *("onnxruntime", "sklearn", "scipy", "bm25s", "numpy", "bs4", "pypdf"),
)


def run(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "assistant.cli", *arguments],
        env={**os.environ, "ASSISTANT_HOME": str(home), "HF_HUB_OFFLINE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def refusal(home: Path, *arguments: str) -> str:
    """The one line that a command that cannot work says."""
    done = run(home, *arguments)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("assistant: ")
    return line


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path]
    for name, command in group.commands.items():
        found += commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return found


@pytest.mark.parametrize("command", commands(main), ids=" ".join)
def test_every_command_answers_help_with_its_purpose(command: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*command, "--help"])
    assert result.exit_code == 0
    purpose = [line for line in result.output.splitlines() if line.strip()][1]
    assert purpose.startswith("  ") and len(purpose.split()) > 2


@pytest.mark.parametrize(
    "command",
    [
        *((), ("run",), ("index",), ("search",), ("train",), ("merge",), ("serve",)),
        *(("evaluate", "ab"), ("evaluate", "adapter"), ("evaluate", "retrieval")),
    ],
    ids=" ".join,
)
def test_help_loads_no_heavy_library(command: tuple[str, ...]) -> None:
    code = (
        "import sys; from assistant.cli import main\n"
        "try: main(sys.argv[1:])\n"
        f"except SystemExit: print('loaded:', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "loaded: []", done.stderr


def test_missing_knowledge_is_one_line_before_the_encoder_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A\n\nText.\n")
    line = refusal(tmp_path, "index", "--knowledge", str(tmp_path / "a.md"), "--knowledge", "/nowhere")
    assert line == ("assistant: knowledge /nowhere does not exist; give a folder, file or zip archive with --knowledge")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("command", [("search", "refund"), ("evaluate", "retrieval", "--cases")], ids=" ".join)
def test_what_needs_an_index_is_one_line_without_one(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "cases.jsonl").write_text('{"query": "refund", "relevant": ["a.md"]}\n')
    more = (str(tmp_path / "cases.jsonl"),) if "--cases" in command else ()
    assert "there is no index yet; run: assistant index" in refusal(tmp_path, *command, *more)


@pytest.mark.parametrize("rate", ["0", "0.5", "-1", "nan"])
def test_a_false_miss_rate_that_cannot_be_is_one_line(tmp_path: Path, rate: str) -> None:
    line = refusal(tmp_path, "index", "--knowledge", str(tmp_path), "--false-miss-rate", rate)
    assert line.startswith("assistant: setting false_miss_rate (--false-miss-rate or ASSISTANT_FALSE_MISS_RATE) is ")


@pytest.mark.parametrize(
    "command", [("merge",), ("evaluate", "adapter"), ("serve", "--merged", "--port", "0")], ids=" ".join
)
def test_what_needs_an_adapter_is_one_line_without_one(tmp_path: Path, command: tuple[str, ...]) -> None:
    assert refusal(tmp_path, *command) == "assistant: there is no adapter yet; run: assistant train --logs FILE"


def test_an_adapter_that_does_not_exist_is_named_beside_those_that_do(tmp_path: Path) -> None:
    (tmp_path / "adapters" / "a1").mkdir(parents=True)
    (tmp_path / "adapters" / "a1" / "training.json").write_text("{}")
    for command in (("merge", "a2"), ("evaluate", "adapter", "a2")):
        assert "there is no adapter 'a2'; under" in refusal(tmp_path, *command)
        assert refusal(tmp_path, *command).endswith("are: a1")


def test_a_ticket_export_whose_columns_are_unknown_is_one_line_with_an_example(tmp_path: Path) -> None:
    (tmp_path / "tickets.csv").write_text("a,b\n1,2\n")
    done = run(tmp_path, "train", "--logs", str(tmp_path / "tickets.csv"))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"assistant: {tmp_path / 'tickets.csv'} names no columns of questions and answers" in done.stderr
    assert "conversation: ticket_id" in done.stderr


def test_training_on_a_missing_log_is_one_line(tmp_path: Path, tiny_base: Path) -> None:
    line = refusal(tmp_path, "train", "--base", str(tiny_base), "--logs", "/nowhere.jsonl")
    assert "/nowhere.jsonl does not exist" in line


def test_training_a_base_that_is_nowhere_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "logs.jsonl").write_text("")
    assert "no-body/no-model" in refusal(
        tmp_path, "train", "--base", "no-body/no-model", "--logs", str(tmp_path / "logs.jsonl")
    )


def test_serving_without_an_index_or_adapter_is_one_line(tmp_path: Path) -> None:
    assert "there is no index yet" in refusal(tmp_path, "serve", "--port", "0")
    publish(tmp_path / "releases", index="i1")
    assert "there is no adapter yet" in refusal(tmp_path, "serve", "--port", "0")


def test_serving_an_adapter_whose_folder_is_gone_is_one_line(tmp_path: Path) -> None:
    publish(tmp_path / "releases", index="i1", adapter="a1", base="smollm2-135m", prompt="p")
    assert "a1 is missing" in refusal(tmp_path, "serve", "--port", "0")


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in refusal(
            tmp_path, "serve", "--port", str(port)
        )


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:1", "nothing answers at http://127.0.0.1:1"),
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("localhost", "localhost"),
    ],
)
def test_chatting_where_nothing_listens_is_one_line(tmp_path: Path, url: str, said: str) -> None:
    assert said in refusal(tmp_path, "chat", "hello", "--url", url)


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"[1]", b"rank: 0", b"surprise: 1", b"a: [unclosed"])
def test_a_recipe_that_is_none_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)
    line = refusal(tmp_path, "train", "--logs", str(tmp_path), "--recipe", str(path))
    assert str(path) in line


@pytest.mark.parametrize("content", [None, b"", b"no json\n", b'{"lang": "en"}\n', b'{"query": "\xff"}\n'])
@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "ab", "--cases"),
        ("evaluate", "retrieval", "--cases"),
        ("index", "--knowledge", str(ROOT / "knowledge"), "--questions"),
    ],
    ids=lambda command: command[0] if command[0] == "index" else " ".join(command[:2]),
)
def test_cases_that_are_none_are_one_line(tmp_path: Path, command: tuple[str, ...], content: bytes | None) -> None:
    path = tmp_path / "cases.jsonl"
    if content is not None:
        path.write_bytes(content)
    assert str(path) in refusal(tmp_path, *command, str(path))


# With the fake encoder, in this process


@pytest.fixture
def company(tmp_path: Path, keywords, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two kinds of knowledge, and with cases; the fake encoder stands in for any."""
    from retrieval import encoder

    monkeypatch.setattr(encoder, "Encoder", lambda *_, **__: keywords)
    monkeypatch.setenv("ASSISTANT_HOME", str(tmp_path / "home"))
    files = {
        "articles/en/refund.md": "---\ntags: [money]\n---\n# Refunds\n\n## Limit\n\nA refund within 90 days.\n",
        "articles/en/card.md": "# Cards\n\nA card takes 5 days.\n",
        "articles/zh/refund.md": "# 退款\n\n退款九十天内。\n",
        "articles/chart.png": "",
        "faq.csv": "question,answer\nWhat is the fee?,2 EUR.\n",
        "cases.jsonl": '{"query": "refund", "relevant": ["en/refund.md"]}\n'
        '{"query": "Which fee?", "relevant": ["faq.csv"], "lang": "en"}\n'
        '{"query": "退款", "relevant": ["zh/refund.md"], "lang": "zh"}\n'
        '{"query": "bitcoin", "scope": "near"}\n',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def invoke(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    return result


def index_company(company: Path, *more: object) -> Result:
    return invoke("index", "--knowledge", company / "articles", "--knowledge", company / "faq.csv", *more)


def test_an_index_of_several_sources_is_summed_up(company: Path) -> None:
    result = index_company(company)
    first, vectors, words, gate = result.stdout.splitlines()
    assert re.fullmatch(
        r"index [0-9a-f]{12} is live: 4 documents \(3 en, 1 zh, 1 skipped\), 4 passages, 13 tokens; \d+ s", first
    )
    assert vectors == "  vectors     flat, recall@10 1.000 of exact, 0.0 MiB"
    assert re.fullmatch(r"  words       weigh \S+ en, \S+ zh", words)
    assert gate.startswith("  hit or miss ")
    assert "skipped *.png: 1 file of a kind that is not read" in result.stderr
    assert "Building index" not in result.stderr  # bm25s says that, and sets its own log to DEBUG


def test_an_index_goes_live_and_the_same_articles_again_are_the_same(company: Path) -> None:
    first = json.loads(index_company(company, "--json").stdout)
    assert live(company / "home" / "releases").index == first["id"]
    assert json.loads(index_company(company, "--json").stdout) == first
    less = json.loads(index_company(company, "--json", "--exclude", "zh").stdout)
    assert (first["documents"], less["documents"]) == (4, 3)
    assert live(company / "home" / "releases").index == less["id"]


@pytest.mark.parametrize("option", ["--questions", "--false-miss-rate", "--small-index"])
def test_what_an_index_is_fitted_to_can_be_chosen(company: Path, option: str) -> None:
    plain = json.loads(index_company(company, "--json").stdout)
    values = {"--questions": [company / "cases.jsonl"], "--false-miss-rate": [0.2], "--small-index": []}[option]
    chosen = json.loads(index_company(company, "--json", option, *values).stdout)
    assert chosen["id"] != plain["id"] and chosen["passages"] == plain["passages"]
    assert chosen["gate"]["false_miss_rate"] == (0.2 if option == "--false-miss-rate" else 0.05)
    assert chosen["vectors"].startswith("flat-sq8" if option == "--small-index" else "flat,")


def test_a_search_for_nothing_is_refused() -> None:
    done = CliRunner().invoke(main, ["search", " "])
    assert done.exit_code == 2 and "it is empty" in done.output


def test_search_shows_the_decision_and_why_and_where_each_passage_stands(company: Path) -> None:
    index_company(company)
    lines = invoke("search", "refund").stdout.splitlines()
    assert lines[0] == "AMBIGUOUS: probability 0.50"
    assert lines[1].startswith("   ") and lines[1].strip()
    first = lines.index("1. 1.000  Refunds > Limit")
    assert re.fullmatch(r"   en/refund\.md, line 8; cosine 1\.000, words 0\.\d\d", lines[first + 1])
    assert lines[first + 2] == "   A refund within 90 days."


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--lang", "zh"), {"zh/refund.md"}),
        (("--tag", "money"), {"en/refund.md"}),
        (("--folder", "en"), {"en/refund.md", "en/card.md"}),
        (("--mode", "bm25"), {"en/refund.md"}),
        (("--mode", "dense", "-n", "1"), {"en/refund.md"}),
        ((), {"en/refund.md", "en/card.md", "faq.csv#2", "zh/refund.md"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_search_can_be_limited(company: Path, options: tuple[str, ...], found: set[str]) -> None:
    index_company(company)
    search = json.loads(invoke("search", "refund", "--json", *options).stdout)
    assert {entry["passage"]["path"] for entry in search["found"]} == found
    assert (search["hit"], search["decision"], search["probability"]) == (True, "ambiguous", 0.5)


def test_a_filter_that_matches_nothing_is_one_line(company: Path) -> None:
    index_company(company)
    result = CliRunner().invoke(main, ["search", "refund", "--tag", "none"])
    assert result.exit_code == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("assistant: no passage matches the filter") and "tag 'none'" in line


def test_a_card_number_in_a_query_is_never_embedded(company: Path, keywords) -> None:
    index_company(company)
    invoke("search", "refund to 4111 1111 1111 1111")
    assert keywords.seen[-1] == "refund to <CARD_1>"


def test_the_live_index_is_evaluated_on_cases(company: Path) -> None:
    index_company(company)
    text = invoke("evaluate", "retrieval", "--cases", company / "cases.jsonl").stdout
    assert text.startswith("3 cases in scope, 1 near, 0 far out of it")
    report = json.loads(invoke("evaluate", "retrieval", "--cases", company / "cases.jsonl", "--json").stdout)
    assert {"hybrid", "dense", "bm25", "gate", "latency_ms", "n"} <= report.keys()
    assert (report["n"], report["hybrid"]["recall@1"], report["bm25"]["recall@1"]) == (4, 1.0, 1.0)
    chinese = invoke("evaluate", "retrieval", "--cases", company / "cases.jsonl", "--json", "--lang", "zh").stdout
    assert json.loads(chinese)["n"] == 1


# With the embedded encoder


def test_index_and_search_print_json(tmp_path: Path, models: Path, encoder) -> None:
    (tmp_path / "models").symlink_to(models)
    (tmp_path / "articles").mkdir()
    (tmp_path / "articles" / "a.md").write_text("# Refunds\n\nWithin 90 days.\n")
    home = ["--home", str(tmp_path), "--json"]
    built = CliRunner().invoke(main, ["index", "--knowledge", str(tmp_path / "articles"), *home])
    assert json.loads(built.stdout)["documents"] == 1
    found = json.loads(CliRunner().invoke(main, ["search", "refund", *home]).stdout)
    assert found["hit"] and found["found"][0]["passage"]["text"] == "Within 90 days."
