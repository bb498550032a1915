"""The command line as users meet it: each command is a process of its own."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from assistant.cli import main
from assistant.releases import publish

ROOT = Path(__file__).parent.parent.parent
HEAVY = ("torch", "transformers", "faiss", "vllm", "sentence_transformers", "fastapi", "pydantic")


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
    "command", [(), ("run",), ("index",), ("train",), ("serve",), ("evaluate", "ab")], ids=" ".join
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


def test_a_missing_knowledge_folder_is_one_line(tmp_path: Path, models: Path, encoder) -> None:
    (tmp_path / "models").symlink_to(models)
    result = CliRunner().invoke(main, ["index", "--home", str(tmp_path), "--knowledge", "/nowhere"])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "assistant: knowledge folder /nowhere does not exist; give one with --knowledge DIR"
    )


def test_search_without_an_index_is_one_line(tmp_path: Path) -> None:
    assert "there is no index yet; run: assistant index" in refusal(tmp_path, "search", "refund")


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
def test_cases_that_are_none_are_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "cases.jsonl"
    if content is not None:
        path.write_bytes(content)
    assert str(path) in refusal(tmp_path, "evaluate", "ab", "--cases", str(path))


def test_index_and_search_print_json(tmp_path: Path, models: Path, encoder) -> None:
    (tmp_path / "models").symlink_to(models)
    (tmp_path / "articles").mkdir()
    (tmp_path / "articles" / "a.md").write_text("# Refunds\n\nWithin 90 days.\n")
    home = ["--home", str(tmp_path), "--json"]
    built = CliRunner().invoke(main, ["index", "--knowledge", str(tmp_path / "articles"), *home])
    assert json.loads(built.stdout)["documents"] == 1
    found = json.loads(CliRunner().invoke(main, ["search", "refund", *home]).stdout)
    assert found["hit"] and found["passages"][0]["text"] == "Within 90 days."
