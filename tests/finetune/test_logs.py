import gzip
import itertools
import json
import random
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from assistant.prompt import Message
from finetune.cleaning.learnable import redacted_record
from finetune.logs import BadLine, Conversation, log_files, read_logs
from retrieval.errors import InputError

MESSAGES = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
TURNS = (Message("user", "Why?"), Message("assistant", "So."))
ALPACA = {"instruction": "Why?", "output": "So."}


def write(path: Path, *lines: object) -> Path:
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(texts) + b"\n")
    return path


def test_a_line_is_a_conversation_and_only_messages_are_required(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        {"messages": MESSAGES},
        {"messages": MESSAGES, "rating": 5, "resolved": True, "unknown": 1},
    )
    assert list(read_logs([path])) == [
        Conversation(f"{path}:1", TURNS, None, None),
        Conversation(f"{path}:2", TURNS, 5, True),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"messages": [', "not JSON: Expecting value at character 15"),
        (b'{"messages": "\xff\xfe\x00', r"not UTF-8: byte 15 of it is 0xff"),
        (b"[" * 100_000, "not JSON: maximum recursion depth"),
        (b'{"rating": NaN}', "not JSON: NaN is no JSON; write null"),
        (rb'{"messages": "\ud83d"}', r"\\ud83d is half of a surrogate pair"),
        (b'{"x": 1' + b"0" * 5000 + b"}", "not JSON: Exceeds the limit"),
        (b'{"x": "' + b"y" * (4 << 20) + b'"}', "longer than 4 MB"),
        (b"[1]", r"line: not an object with messages but '\[1\]'"),
        ({"rating": 5}, "messages: Field required"),
        ({"messages": MESSAGES[:1]}, "messages: List should have at least 2 items"),
        ({"messages": [{"role": "agent", "content": "x"}, *MESSAGES]}, r"messages\.0\.role: Input should be"),
        ({"messages": [{"role": "user"}, *MESSAGES]}, r"messages\.0\.content: Field required"),
        ({"messages": MESSAGES, "rating": 9}, "rating: Input should be less than or equal to 5"),
        ({"messages": [{"role": "user", "content": "x" * 20_001}, *MESSAGES]}, r"messages\.0\.content: String should"),
    ],
    ids=[
        *("cut off", "not UTF-8", "nested too deep", "NaN", "half a character", "huge number", "huge", "a list"),
        *("none", "one", "role", "content", "rating", "long"),
    ],
)
@pytest.mark.parametrize("listed", [False, True], ids=["JSONL", "JSON"])
def test_a_record_that_is_wrong_is_set_aside_with_its_place_and_reason(
    tmp_path: Path, line: object, reason: str, listed: bool
) -> None:
    good = json.dumps({"messages": MESSAGES}).encode()
    text = line if isinstance(line, bytes) else json.dumps(line).encode()
    path = tmp_path / ("a.json" if listed else "a.jsonl")
    path.write_bytes(b"[" + b",\n".join([good, text, good]) + b"]" if listed else b"\n".join([good, text, good]))
    before, bad, after = read_logs([path])
    assert isinstance(before, Conversation) and isinstance(after, Conversation)
    assert isinstance(bad, BadLine) and (bad.place, after.place) == (f"{path}:2", f"{path}:3")
    if not (listed and reason.startswith(("not JSON: Expecting", "not UTF-8"))):  # the comma after it is noticed first
        assert re.match(reason, bad.reason)
    assert len(bad.text) <= 8000
    bad.text.encode()


def test_blank_lines_are_no_lines_but_count_in_places(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\ufeff\r\n  \r\n" + json.dumps({"messages": MESSAGES}) + "\r\n")
    assert list(read_logs([path])) == [Conversation(f"{path}:3", TURNS)]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([ALPACA, ALPACA]),
        "\ufeff \n" + json.dumps([ALPACA, ALPACA], indent=4) + "\n",
        f"{json.dumps(ALPACA)}\n{json.dumps(ALPACA)}\n",
        f"{json.dumps(ALPACA, indent=1)}\n{json.dumps(ALPACA, indent=1)}",
    ],
    ids=["list", "indented list", "lines", "indented objects"],
)
@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_a_json_file_is_a_list_or_lines_or_objects(tmp_path: Path, text: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    assert [entry.messages for entry in read_logs([path]) if isinstance(entry, Conversation)] == [TURNS, TURNS]


def test_a_list_in_a_jsonl_file_is_read_as_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps([ALPACA, ALPACA], indent=2))
    assert [entry.place for entry in read_logs([path])] == [f"{path}:2", f"{path}:6"]


def test_items_of_a_list_on_one_line_have_places_of_their_own(tmp_path: Path) -> None:
    """A conversation is known by its place: one twin of a case took the whole file out."""
    path = tmp_path / "a.json"
    path.write_text(f"[{json.dumps(ALPACA)}, {json.dumps(ALPACA)},\n{json.dumps(ALPACA)}, {{}}]")
    assert [entry.place for entry in read_logs([path])] == [f"{path}:1", f"{path}:1#2", f"{path}:2", f"{path}:2#2"]


def test_a_list_that_is_cut_off_or_goes_on_after_its_end_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text, reason in [
        (json.dumps([ALPACA])[:-1], "the list is not closed by ]; the file may be cut off"),
        (json.dumps([ALPACA, ALPACA])[:-5], "not JSON: Unterminated string starting at at character 35"),
        (json.dumps([ALPACA]) + "x", "text after the end of the list"),
    ]:
        path.write_text(text)
        good, bad = read_logs([path])
        assert isinstance(good, Conversation) and isinstance(bad, BadLine)
        assert bad.reason == reason


def test_objects_within_a_damaged_item_are_not_taken_for_items(tmp_path: Path) -> None:
    """Reading goes on at the next object that starts as items do, and tool calls start with `id`, too."""
    calls = [{"id": "c1", "function": {"name": "f"}}, {"id": "c2", "function": {"name": "f"}}]
    item = {"id": "1", "messages": [MESSAGES[0], {"role": "assistant", "tool_calls": calls}]}
    text = json.dumps([item, item, item], indent=1)
    path = tmp_path / "a.json"
    path.write_text(text[: len(text) // 2].replace('"messages": [', '"messages": ', 2) + text[len(text) // 2 :])
    assert [type(entry) for entry in read_logs([path])] == [BadLine, BadLine, Conversation]


def test_a_folder_is_its_logs_sorted(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "._a.jsonl"):
        write(tmp_path / name, {"messages": MESSAGES})
    (tmp_path / "d.csv").write_text("question,answer\nWhy?,So.\n")
    places = [f"{tmp_path}/a.jsonl:1", f"{tmp_path}/b.jsonl:1", f"{tmp_path}/d.csv:2"]
    assert [entry.place for entry in read_logs([tmp_path])] == places
    assert log_files([tmp_path]) == [tmp_path / name for name in ("a.jsonl", "b.jsonl", "d.csv")]


def test_a_folder_in_a_log_folder_is_read_and_what_is_no_log_is_set_aside(tmp_path: Path) -> None:
    """Months in folders of their own, and a spreadsheet beside one good file, were lost without a word."""
    for name in ("2026-11/a.jsonl", "2026-11/.trash/b.jsonl", "z/c.jsonl", "n.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, {"messages": MESSAGES})
    (tmp_path / "march.xlsx").touch()
    (tmp_path / "z" / "back").symlink_to(tmp_path)
    november, march, good, back, deep = read_logs([tmp_path])
    assert [entry.place.removeprefix(f"{tmp_path}/") for entry in (november, good, deep)] == [
        "2026-11/a.jsonl:1",
        "n.jsonl:1",
        "z/c.jsonl:1",
    ]
    for entry, name, reason in [
        (march, "march.xlsx", "not read; .jsonl, .json, .csv, .tsv are read, each also as .gz"),
        (back, "z/back", "a link to a folder; name the folder itself"),
    ]:
        assert isinstance(entry, BadLine) and (entry.place, entry.reason) == (str(tmp_path / name), reason)
        assert (entry.counts, entry.rows) == ({"files: not read": 1}, 0)
    assert log_files([tmp_path]) == [tmp_path / name for name in ("2026-11/a.jsonl", "n.jsonl", "z/c.jsonl")]


def test_a_folder_in_a_log_folder_may_hold_data_sets_of_llama_factory(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"messages": MESSAGES})
    (tmp_path / "sets").mkdir()
    write(tmp_path / "sets" / "b.jsonl", {"q": "Why?", "a": "So."})
    entry = {"file_name": "b.jsonl", "columns": {"prompt": "q", "response": "a"}}
    (tmp_path / "sets" / "dataset_info.json").write_text(json.dumps({"b": entry}))
    assert [entry.messages for entry in read_logs([tmp_path]) if isinstance(entry, Conversation)] == [TURNS, TURNS]


def test_of_a_folder_only_some_files_are_read_as_it_says(tmp_path: Path) -> None:
    """A night was given the files by themselves: a mapping ended it, and a data set was read without its columns."""
    (tmp_path / "sets").mkdir()
    write(tmp_path / "sets" / "b.jsonl", {"q": "Why?", "a": "So."})
    entry = {"file_name": "b.jsonl", "columns": {"prompt": "q", "response": "a"}}
    (tmp_path / "sets" / "dataset_info.json").write_text(json.dumps({"b": entry}))
    (tmp_path / "t.columns.yaml").write_text("{question: asked, answer: told}")
    (tmp_path / "t.csv").write_text("asked,told\nWhy?,So.\n")
    found = list(read_logs([tmp_path]))
    assert [entry.messages for entry in found] == [TURNS, TURNS]
    assert list(read_logs([tmp_path], only=log_files([tmp_path]))) == found
    assert list(read_logs([tmp_path], only=[tmp_path / "t.columns.yaml"])) == found[1:]
    assert list(read_logs([tmp_path], only=[tmp_path / "sets" / "b.jsonl"])) == found[:1]


@pytest.mark.parametrize("cut", [2000, 8000])
def test_no_half_of_an_address_is_left_where_a_bad_record_is_cut(tmp_path: Path, cut: int) -> None:
    """Records were cut first and redacted then, and half an address is none."""
    path = tmp_path / "a.jsonl"
    for beyond in range(60):
        texts = {"content": f"{'so ' * 300}Write to anna.schmidt@example.com or pay 4111 1111 1111 1111. "}
        length = cut + beyond - len(json.dumps({"x": "", **texts}))
        path.write_text(json.dumps({"x": f"{'y ' * 4000}"[:length], **texts})[:-1] + "\n")
        (bad,) = read_logs([path])
        assert isinstance(bad, BadLine)
        shown = redacted_record(bad.text)
        assert len(shown) <= 2000 and "anna" not in shown and "example" not in shown and "11" not in shown


def test_a_reason_holds_no_half_of_an_address(tmp_path: Path) -> None:
    for more in range(30):
        path = write(tmp_path / "a.jsonl", {"messages": MESSAGES, "at": f"{'x' * more} anna.schmidt@example.com"})
        (bad,) = read_logs([path])
        assert isinstance(bad, BadLine) and "anna" not in bad.reason and "example" not in bad.reason
    path = write(tmp_path / "a.jsonl", ["Anna Schmidt", "12 Hill Road"])
    (bad,) = read_logs([path])
    assert isinstance(bad, BadLine)
    assert bad.reason == """line: not an object with messages but '["<PRIVATE>", "<PRIVATE>"]'"""


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz"])
def test_an_empty_file_holds_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert list(read_logs([tmp_path])) == []


def test_paths_that_cannot_be_read_are_input_errors_before_any_is_read(tmp_path: Path) -> None:
    good = write(tmp_path / "a.jsonl", {"messages": MESSAGES})
    with pytest.raises(InputError, match=f"log file {tmp_path}/no does not exist"):
        next(read_logs([good, tmp_path / "no"]))
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(InputError, match=r"a\.xlsx is of no kind that is read; \.jsonl, \.json, \.csv, \.tsv are read"):
        next(read_logs([good, tmp_path / "a.xlsx"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=f"log folder {tmp_path}/empty holds no log; "):
        log_files([good, tmp_path / "empty"])
    whole = gzip.compress(good.read_bytes())
    for damaged in (whole[:-12], b"not gzip", whole[:10] + b"\xff\xff\xff" + whole[13:]):
        (tmp_path / "b.jsonl.gz").write_bytes(damaged)
        with pytest.raises(InputError, match=r"b\.jsonl\.gz cannot be read: "):
            list(read_logs([tmp_path / "b.jsonl.gz"]))


def damaged(record: bytes, chance: random.Random, kept: bytes) -> bytes:
    """The record with a few bytes replaced, taken out or put in, but none of `kept`."""
    changed = bytearray(record)
    for _ in range(chance.choice([0, 1, 1, 2, 5])):
        position = chance.randrange(len(changed))
        byte = chance.choice(
            [byte for byte in [*b'"\\{}[]:,x0 \x00\xff\xe6', chance.randrange(256)] if byte not in kept]
        )
        if changed[position] in kept:
            continue
        match chance.randrange(3):
            case 0:
                changed[position] = byte
            case 1:
                changed.insert(position, byte)
            case _ if len(changed) > 1:
                del changed[position]
    return bytes(changed)


RECORDS: list[dict[str, Any]] = [
    {"id": "1", "messages": [*MESSAGES, {"role": "user", "content": "退款 🙂 多久？"}, MESSAGES[1]], "tools": []},
    {"id": "2", "instruction": "Why?", "input": 'a "b"', "output": "So.\n", "history": [["你好", "您好"]]},
    {"id": "3", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "}, {"}]},
]


@pytest.mark.parametrize("seed", range(40))
def test_every_damaged_line_is_a_conversation_or_a_bad_line(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    lines = [json.dumps(chance.choice(RECORDS), ensure_ascii=False).encode() for _ in range(50)]
    lines = [damaged(line, chance, b"\r\n") for line in lines]
    path = write(tmp_path / "a.jsonl", *lines)
    entries = list(read_logs([path]))
    assert [entry.place for entry in entries] == [f"{path}:{number}" for number in range(1, 51)]
    assert {type(entry) for entry in entries} == {Conversation, BadLine}


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("indent", [None, 2])
def test_every_damaged_item_of_a_list_is_a_conversation_or_a_bad_line(
    tmp_path: Path, seed: int, indent: int | None
) -> None:
    chance = random.Random(seed)
    text = json.dumps([chance.choice(RECORDS) for _ in range(50)], ensure_ascii=False, indent=indent)
    starts = [match.start() for match in re.finditer(r'\{\s*"id"', text)]
    items = [text[start:end].encode() for start, end in itertools.pairwise([*starts, len(text)])]
    whole = {number for number in range(50) if chance.random() < 0.5}
    for number in {*range(50)} - whole:
        # Two neighbours, the second of which does not start as items do, are one bad line.
        start = items[number].index(b":") + 1
        items[number] = items[number][:start] + damaged(items[number][start:-3], chance, b"\r\n") + items[number][-3:]
    path = tmp_path / "a.json"
    path.write_bytes(text[: starts[0]].encode() + b"".join(items))
    entries = list(read_logs([path]))
    assert len(entries) == 50
    assert all(isinstance(entries[number], Conversation) for number in whole)


@pytest.mark.parametrize("seed", range(40))
def test_every_damaged_row_is_in_a_conversation_or_a_bad_line(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    rows = [f"{number},{role},退款 多久" for number in range(25) for role in ("user", "agent")]
    lines = [damaged(row.encode(), chance, b'"\r\n') for row in rows]  # two quotes may make one cell of many rows
    path = tmp_path / "a.csv"
    path.write_bytes(b"\n".join([b"ticket_id,role,content", *lines]))
    assert sum(entry.rows for entry in read_logs([path])) == len([line for line in lines if line.strip(b" ,")])


CHINESE = "退" * 600


@pytest.mark.parametrize(
    ("name", "start", "record", "end", "most_mb"),
    [
        ("a.jsonl", "", json.dumps({"messages": MESSAGES, "x": CHINESE}, ensure_ascii=False) + "\n", "", 5),
        ("a.json", "[", json.dumps({**ALPACA, "x": CHINESE}, ensure_ascii=False, indent=2) + ",\n", "{}]", 5),
        ("a.csv", "question,answer,x\n", f"Why?,So.,{CHINESE}\n", "", 5),
        ("a.csv", 'question,answer\n"', f"Why?,{'x' * 2000}\n", "", 5),
        ("a.jsonl", "", "[" * 4000, "", 20),
        ("a.json", '[{"x": "', "y" * 4000, "", 30),
        ("a.csv", "question,answer\n", "退" * 4000, "", 40),
    ],
    ids=["JSONL", "JSON", "CSV", "one quote", "one line", "one item", "one cell"],
)
def test_memory_does_not_grow_with_the_file(
    tmp_path: Path, name: str, start: str, record: str, end: str, most_mb: int
) -> None:
    """Of 40 MB: a record or so is held, and of a record of 40 MB no more than 4 million characters."""
    path = tmp_path / name
    block = record.encode() * ((1 << 20) // len(record.encode()))
    with path.open("wb") as file:
        file.write(start.encode())
        for _ in range(40):
            file.write(block)
        file.write(end.encode())
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_logs([path]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < most_mb << 20, peak / 2**20
    assert count
