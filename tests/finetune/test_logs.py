import json
import re
from pathlib import Path

import pytest

from assistant.prompt import Message
from finetune.logs import BadLine, Conversation, read_logs
from retrieval.errors import InputError

MESSAGES = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
TURNS = (Message("user", "Why?"), Message("assistant", "So."))


def write(path: Path, *lines: object) -> Path:
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(texts) + b"\n")
    return path


def test_a_line_is_a_conversation_and_only_messages_are_required(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        {"messages": MESSAGES},
        {"messages": MESSAGES, "rating": 5, "resolved": True, "id": "x", "unknown": 1},
    )
    assert list(read_logs([path])) == [
        Conversation(f"{path}:1", TURNS, None, None),
        Conversation(f"{path}:2", TURNS, 5, True),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"messages": [', "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "line"),
        ({"rating": 5}, "messages: Field required"),
        ({"messages": MESSAGES[:1]}, "messages: List should have at least 2 items"),
        ({"messages": [{"role": "agent", "content": "x"}, *MESSAGES]}, r"messages\.0\.role: Input should be"),
        ({"messages": [{"role": "user"}, *MESSAGES]}, r"messages\.0\.content: Field required"),
        ({"messages": MESSAGES, "rating": 9}, "rating: Input should be less than or equal to 5"),
        ({"messages": [{"role": "user", "content": "x" * 20_001}, *MESSAGES]}, r"messages\.0\.content: String should"),
    ],
    ids=["cut off", "not UTF-8", "nested too deep", "a list", "none", "one", "role", "content", "rating", "long"],
)
def test_a_line_that_is_wrong_is_set_aside_with_its_place_and_reason(tmp_path: Path, line: object, reason: str) -> None:
    path = write(tmp_path / "a.jsonl", {"messages": MESSAGES}, line, {"messages": MESSAGES})
    before, bad, after = read_logs([path])
    assert isinstance(before, Conversation) and isinstance(after, Conversation)
    assert isinstance(bad, BadLine) and bad.place == f"{path}:2"
    assert re.match(reason, bad.reason)
    assert len(bad.text) <= 2000


def test_blank_lines_are_no_lines_but_count_in_places(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n  \n" + json.dumps({"messages": MESSAGES}) + "\n")
    assert [entry.place for entry in read_logs([path])] == [f"{path}:3"]


def test_a_folder_is_its_jsonl_files_sorted(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        write(tmp_path / name, {"messages": MESSAGES})
    assert [entry.place for entry in read_logs([tmp_path])] == [f"{tmp_path}/a.jsonl:1", f"{tmp_path}/b.jsonl:1"]


def test_missing_files_and_empty_folders_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"log file {tmp_path}/no does not exist"):
        list(read_logs([tmp_path / "no"]))
    with pytest.raises(InputError, match=f"log folder {tmp_path} holds no .jsonl file"):
        list(read_logs([tmp_path]))
