import json
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from assistant.prompt import Message
from finetune.cleaning.learnable import redacted_record
from finetune.logs import BadLine, Columns, Conversation, log_files, read_columns, read_logs
from retrieval.errors import InputError

MESSAGES = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
TURNS = (Message("user", "Why?"), Message("assistant", "So."))


def read(tmp_path: Path, *lines: dict[str, Any]) -> list[Conversation | BadLine]:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return list(read_logs([path]))


def one(tmp_path: Path, **line: Any) -> Conversation:
    (entry,) = read(tmp_path, line)
    assert isinstance(entry, Conversation), entry
    return entry


def bad(tmp_path: Path, **line: Any) -> str:
    (entry,) = read(tmp_path, line)
    assert isinstance(entry, BadLine), entry
    return entry.reason


def table(tmp_path: Path, text: str | bytes, columns: Columns | None = None) -> list[Conversation | BadLine]:
    path = tmp_path / "tickets.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_logs([path], columns))


# OpenAI messages


def test_what_a_log_line_says_of_its_conversation_is_kept(tmp_path: Path) -> None:
    found = one(
        tmp_path,
        messages=MESSAGES,
        at="2026-01-31T09:30:00+08:00",
        customer="c1",
        agent={"name": "Wang", "mail": "w@example.org"},
        lang=["en"],  # not used, so it may be anything
        rating=4,
        resolved=True,
    )
    assert (found.customer, found.agent) == ("c1", "Wang")
    assert (found.rating, found.resolved, found.origin) == (4, True, "agent")
    assert found.at == datetime(2026, 1, 31, 9, 30, tzinfo=timezone(timedelta(hours=8)))


@pytest.mark.parametrize(
    "at",
    [
        *("2026-01-31T09:30:00Z", "2026-01-31 09:30:00", "2026-01-31T17:30:00+08:00"),
        *("2026/1/31 9:30", 1_769_851_800, 1_769_851_800_000, "1769851800", "1769851800000"),
    ],
)
def test_times_are_read_as_logs_write_them_and_a_naive_one_is_utc(tmp_path: Path, at: object) -> None:
    assert one(tmp_path, messages=MESSAGES, at=at).at == datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


def test_eight_digits_are_a_day_and_other_digits_that_are_no_time_say_so(tmp_path: Path) -> None:
    """Python takes any digit for the T of ISO 8601: milliseconds as text were read as the year 1712."""
    assert one(tmp_path, messages=MESSAGES, at="20240402").at == datetime(2024, 4, 2, tzinfo=UTC)
    assert one(tmp_path, messages=MESSAGES, at="1712010112345").at == datetime(2024, 4, 1, 22, 21, 52, 345000, UTC)
    for text in ("2024", "171201011234500"):
        assert "is no time" in bad(tmp_path, messages=MESSAGES, at=text)


def test_tool_calls_and_their_replies_and_the_declared_tools_are_kept(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "refund_status", "parameters": {"type": "object"}}}
    call = {"id": "c1", "type": "function", "function": {"name": "refund_status", "arguments": '{"id": 7}'}}
    found = one(
        tmp_path,
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Where is"}, {"type": "text", "text": "it?"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "sent"},
            {"role": "assistant", "content": "It was sent."},
        ],
        tools=[tool],
    )
    assert found.tools == (tool,)
    assert found.messages == (
        Message("system", "Be brief."),
        Message("user", "Where is\nit?"),
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "sent", tool_call_id="c1"),
        Message("assistant", "It was sent."),
    )


def test_calls_without_ids_get_some_and_replies_answer_them_in_order(tmp_path: Path) -> None:
    calls = [{"function": {"name": name, "arguments": {"n": 1}}} for name in ("a", "b")]
    found = one(
        tmp_path,
        messages=[
            {"role": "user", "content": "?"},
            {"role": "assistant", "tool_calls": calls},
            {"role": "tool", "content": "A"},
            {"role": "tool", "content": "B"},
        ],
    )
    assert [call["id"] for call in found.messages[1].tool_calls] == ["call_1", "call_2"]
    assert found.messages[1].tool_calls[0]["function"]["arguments"] == '{"n": 1}'
    assert [message.tool_call_id for message in found.messages[2:]] == ["call_1", "call_2"]


@pytest.mark.parametrize(
    ("answer", "reasoning", "content"),
    [
        ({"content": "<think>\nHm.\n</think>\n\nSo."}, "Hm.", "So."),
        ({"content": "Hm.</think>So."}, "Hm.", "So."),
        ({"content": "So.", "reasoning_content": "Hm."}, "Hm.", "So."),
        ({"content": "<think>\n\n</think>\n\nSo."}, "", "So."),
        ({"content": "Write <think> first."}, "", "Write <think> first."),
        ({"content": "<think>" + "x" * 30_000 + "</think>So."}, "x" * 30_000, "So."),
    ],
)
def test_reasoning_is_taken_out_of_the_answer(
    tmp_path: Path, answer: dict[str, str], reasoning: str, content: str
) -> None:
    found = one(tmp_path, messages=[MESSAGES[0], {"role": "assistant", **answer}])
    assert found.messages[1] == Message("assistant", content, reasoning=reasoning)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"messages": [MESSAGES[0], {"role": "assistant", "content": "<think>Hm"}]}, "messages.1: <think> is not clos"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0: a part of type 'image_url"),
        ({"messages": [MESSAGES[0], {"role": "assistant", "content": None}]}, "messages.1.content: Input should be a"),
        ({"messages": MESSAGES, "tools": [{"type": "function"}]}, "tools: a tool without a name"),
        ({"messages": MESSAGES, "tools": "[{"}, "tools: not JSON"),
        ({"messages": MESSAGES, "at": "31.01.2026"}, "at: '31.01.2026' is no time; write it as 2026-01-31T09:30"),
        ({"messages": MESSAGES, "feedback": {"thumb": "meh"}}, "feedback.thumb: Input should be 'up' or 'down'"),
        ({"messages": MESSAGES, "images": ["a.png"]}, "it has images"),
        ({"instruction": "?", "chosen": "a", "rejected": "b"}, "a preference pair"),
        ({"instruction": "?", "output": "!", "kto_tag": False}, "an example for KTO"),
        ({"instruction": "?"}, "output: Field required"),
        ({"conversations": [{"from": "human", "value": "?"}, {"from": "bing", "value": "!"}]}, "conversations.1.from"),
        ({"text": "a", "x": 1}, "messages: Field required, or conversations, or instruction and output; it has 'text"),
    ],
)
def test_a_record_that_cannot_be_learned_from_says_why(tmp_path: Path, line: dict[str, Any], reason: str) -> None:
    assert bad(tmp_path, **line).startswith(reason)


def test_a_line_with_a_route_is_a_transcript_of_the_assistant(tmp_path: Path) -> None:
    found = one(
        tmp_path,
        messages=MESSAGES,
        route="grounded",
        release="r1",
        feedback={"thumb": "down", "reason": "wrong", "correction": "Because."},
        resolved_by="person",
    )
    assert (found.origin, found.thumb, found.correction) == ("assistant", "down", "Because.")
    assert found.resolved_by_person is True
    plain = one(tmp_path, messages=MESSAGES)
    assert (plain.origin, plain.thumb, plain.correction, plain.resolved_by_person) == ("agent", None, None, None)
    assert one(tmp_path, messages=MESSAGES, origin="assistant", resolved_by="assistant").resolved_by_person is False


# ShareGPT and Alpaca


def test_sharegpt_with_system_tools_and_function_calls(tmp_path: Path) -> None:
    found = one(
        tmp_path,
        conversations=[
            {"from": "human", "value": "Where?"},
            {"from": "function_call", "value": '{"name": "status", "arguments": {"id": 7}}'},
            {"from": "observation", "value": "sent"},
            {"from": "gpt", "value": "<think>Ok.</think>Sent."},
        ],
        system="Be brief.",
        tools='[{"name": "status", "parameters": {}}]',
    )
    call = {"id": "call_1", "type": "function", "function": {"name": "status", "arguments": '{"id": 7}'}}
    assert found.messages == (
        Message("system", "Be brief."),
        Message("user", "Where?"),
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "sent", tool_call_id="call_1"),
        Message("assistant", "Sent.", reasoning="Ok."),
    )
    assert found.tools == ({"type": "function", "function": {"name": "status", "parameters": {}}},)


def test_alpaca_with_input_history_and_system(tmp_path: Path) -> None:
    found = one(
        tmp_path, instruction="Say", input="why", output="So.", history=[["Hi", "Hello"]], system="Brief.", rating=5
    )
    assert found.messages == (
        Message("system", "Brief."),
        Message("user", "Hi"),
        Message("assistant", "Hello"),
        Message("user", "Say\nwhy"),
        Message("assistant", "So."),
    )
    assert found.rating == 5


# LLaMA-Factory


def factory(folder: Path, **entries: Any) -> Path:
    (folder / "dataset_info.json").write_text(json.dumps(entries))
    return folder


def test_dataset_info_says_which_files_are_read_and_what_their_fields_mean(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"q": "Why?", "a": "So."}], indent=2))
    dialog = [{"who": "customer", "says": "Why?"}, {"who": "clerk", "says": "So."}]
    (tmp_path / "b.jsonl").write_text(json.dumps({"dialog": dialog}) + "\n" + json.dumps({"id": 1}))
    (tmp_path / "c.csv").write_text("instruction,output\nWhy?,So.\n")
    factory(
        tmp_path,
        one={"file_name": "a.json", "columns": {"prompt": "q", "response": "a"}},
        two={
            "file_name": "b.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": "dialog"},
            "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "customer", "assistant_tag": "clerk"},
        },
        three={"file_name": "c.csv"},
    )
    entries = list(read_logs([tmp_path]))
    assert [entry.messages for entry in entries if isinstance(entry, Conversation)] == [TURNS, TURNS, TURNS]
    assert [entry.place.removeprefix(f"{tmp_path}/") for entry in entries] == [
        "a.json:2",
        *["b.jsonl:1", "b.jsonl:2"],
        "c.csv:2",
    ]
    assert isinstance(entries[2], BadLine)
    assert entries[2].reason == "no field 'dialog', which dataset_info.json names; it has 'id'"
    names = ["dataset_info.json", "a.json", "b.jsonl", "c.csv"]
    assert [path.name for path in log_files([tmp_path])] == names
    assert list(read_logs([tmp_path / "dataset_info.json"])) == entries


def test_data_sets_that_are_not_read_are_reported_beside_those_that_are(tmp_path: Path) -> None:
    for name in ("a.json", "forgotten.json"):
        (tmp_path / name).write_text(json.dumps([{"instruction": "Why?", "output": "So."}]))
    (tmp_path / "b.parquet").touch()
    factory(
        tmp_path,
        hub={"hf_hub_url": "someone/something"},
        pairs={"file_name": "a.json", "ranking": True},
        pictures={"file_name": "a.json", "columns": {"images": "images"}},
        wrong={"file_name": "a.json", "formatting": "vicuna"},
        binary={"file_name": "b.parquet"},
        good={"file_name": "a.json"},
    )
    good, *skipped = read_logs([tmp_path])
    assert isinstance(good, Conversation)
    assert all(isinstance(entry, BadLine) for entry in skipped)
    assert [
        (entry.place.removeprefix(str(tmp_path)), entry.reason[:12]) for entry in skipped if isinstance(entry, BadLine)
    ] == [
        ("/dataset_info.json#hub", "hf_hub_url: "),
        ("/dataset_info.json#pairs", "ranking or k"),
        ("/dataset_info.json#pictures", "images, vide"),
        ("/dataset_info.json#wrong", "formatting: "),
        ("/b.parquet", "not read; sa"),
        ("/forgotten.json", "no data set "),
    ]


def test_a_dataset_info_that_leads_nowhere_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dataset_info\.json#a: file .*gone\.json does not exist"):
        list(read_logs([factory(tmp_path, a={"file_name": "gone.json"})]))
    with pytest.raises(InputError, match=r"no data set that can be read; .*#a: hf_hub_url"):
        list(read_logs([factory(tmp_path, a={"hf_hub_url": "x/y"})]))
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(InputError, match=r"dataset_info\.json cannot be read: Expecting"):
        list(read_logs([tmp_path]))


# CSV exports of tickets


def test_a_ticket_a_row_by_the_usual_names(tmp_path: Path) -> None:
    text = '\ufeffTicket_ID;Question;Answer;Rating\r\n17;Why?;"So;\nor so.";5\r\n;;;\r\n18;Who?;Me.;\r\n'
    first, second = table(tmp_path, text)
    assert isinstance(first, Conversation) and isinstance(second, Conversation)
    assert first.messages == (Message("user", "Why?"), Message("assistant", "So;\nor so."))
    assert (first.rating, second.rating) == (5, None)
    assert [first.place[-2:], second.place[-2:]] == [":2", ":5"]


GROUPED = """ticket_id,author_type,body,created_at,status,name
1,Customer,Why?,2026-01-31 09:30,open,Li
1,agent,So.,2026-01-31 09:31,solved,Wang
2,客户,Who?,2026-02-01 10:00,open,Zhao
2,客服,Me.,2026-02-01 10:01,open,Wang
"""


def test_a_message_a_row_is_put_together_by_ticket(tmp_path: Path) -> None:
    (tmp_path / "tickets.columns.yaml").write_text(
        "{conversation: Ticket_ID, role: author_type, content: body, at: created_at, resolved: status, agent: name, "
        "customer: name, values: {resolved: {Solved: true, open: false}}}"
    )
    first, second = table(tmp_path, GROUPED)
    assert isinstance(first, Conversation) and isinstance(second, Conversation)
    assert (first.messages, first.rows, first.resolved) == (TURNS, 2, True)
    assert (first.agent, first.customer) == ("Wang", "Li")
    assert first.at == datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
    assert (second.place[-2:], second.resolved) == (":4", False)
    assert [path.name for path in log_files([tmp_path])] == ["tickets.columns.yaml", "tickets.csv"]


def test_rows_of_a_ticket_are_put_in_the_order_of_their_times(tmp_path: Path) -> None:
    """Many systems export the newest message first: answers came before their questions."""
    text = "ticket_id,role,content,at\n1,agent,So.,2026-01-31 09:31\n1,customer,Why?,2026-01-31 09:30\n"
    (found,) = table(tmp_path, text)
    assert isinstance(found, Conversation) and found.messages == TURNS


def test_a_ticket_that_comes_again_and_rows_that_are_wrong_are_set_aside_and_counted(tmp_path: Path) -> None:
    rows = [
        *("1,customer,Why?", "1,agent,So."),
        *("2,customer,Who?", "2,robot,Me."),
        *("1,customer,And?", "1,agent,Well."),
        *("3,customer,Why?", "3,agent", "3,agent,So."),
        *(",customer,Lost", "4,customer,Why?", "4,agent,So."),
        *("5,customer,Why?", "5,note,Calls often.", "5,agent,So."),
    ]
    columns = Columns.model_validate(
        {
            "conversation": "ticket_id",
            "role": "role",
            "content": "content",
            "values": {"role": {"Note": "skip"}},
        }
    )
    entries = table(tmp_path, "ticket_id,role,content\n" + "\n".join(rows), columns)
    found = [(entry.place.split(":")[1], entry.rows, getattr(entry, "reason", "")[:24]) for entry in entries]
    assert found == [
        ("2", 2, ""),
        ("5", 2, "'robot' is no known role"),
        ("6", 2, "ticket '1' has rows furt"),
        ("9", 1, "2 cells where the header"),
        ("11", 1, "nothing in column 'ticke"),
        ("9", 2, "a row of it may be lost "),
        ("11", 2, "a row of it may be lost "),
        ("14", 3, ""),
    ]
    assert sum(entry.rows for entry in entries) == len(rows)
    lost = [entry.lost for entry in entries if isinstance(entry, BadLine)]
    assert lost == ["conversation", "rows", "rows", "rows", "conversation", "conversation"]
    assert isinstance(entries[-1], Conversation) and entries[-1].messages == TURNS


def test_a_ticket_with_a_bad_row_counts_as_one_conversation(tmp_path: Path) -> None:
    """Rows were counted as conversations: of three tickets two were kept and four malformed."""
    rows = [f"{ticket},{role},Well" for ticket in (1, 2, 3) for role in ("customer", "agent") * 2]
    rows[5] = "2,agent"
    entries = table(tmp_path, "ticket_id,role,content\n" + "\n".join(rows))
    counts = sum((Counter(entry.counts) for entry in entries if isinstance(entry, BadLine)), Counter())
    assert counts == {"conversations: malformed": 1, "rows: malformed": 1}
    assert sum(isinstance(entry, Conversation) for entry in entries) == 2


def test_of_a_bad_row_people_see_the_texts_and_how_many_cells_there_are(tmp_path: Path) -> None:
    """Names and streets in the other cells stood in what was set aside."""
    (tmp_path / "columns.yaml").write_text("{question: subject, answer: reply, rating: csat}")
    cells = "1001,Anna Schmidt,12 Hill Road\n1001,Anna Schmidt,9,Why?,So.\n"
    short, badly_rated = table(tmp_path, f"id,name,csat,subject,reply\n{cells}")
    assert isinstance(short, BadLine) and isinstance(badly_rated, BadLine)
    assert redacted_record(short.text) == '["####", "<PRIVATE>", "<PRIVATE>"]'
    assert redacted_record(badly_rated.text) == (
        '{"id": "####", "name": "<PRIVATE>", "csat": "#", "question": "Why?", "answer": "So."}'
    )


def test_of_a_ticket_that_is_set_aside_people_see_its_messages(tmp_path: Path) -> None:
    (found,) = table(tmp_path, "ticket_id,role,content,name\n1,customer,Why?,Anna Schmidt\n1,robot,So.,R2\n")
    assert isinstance(found, BadLine)
    assert redacted_record(found.text).split("\n") == [
        '{"ticket_id": "#", "role": "<PRIVATE>", "content": "Why?", "name": "<PRIVATE>"}',
        '{"ticket_id": "#", "role": "<PRIVATE>", "content": "So.", "name": "<PRIVATE>"}',
    ]


def test_a_quote_without_its_other_half_costs_one_row(tmp_path: Path) -> None:
    """The csv module alone takes everything up to the next quote into the cell, and says nothing."""
    text = 'question,answer\nWhy?,"So.\nWho?,"Me, I think."\nWhen?,Now.\n'
    bad_row, *good = table(tmp_path, text)
    assert isinstance(bad_row, BadLine) and bad_row.place.endswith(":2") and bad_row.reason.startswith("not CSV")
    assert [entry.messages[0].content for entry in good if isinstance(entry, Conversation)] == ["Who?", "When?"]


def test_exports_of_chinese_excel_in_gb18030_are_read(tmp_path: Path) -> None:
    lines = ["问题,答案", *["Why?,So."] * 5000, "退款多久到账？,三到五个工作日。"]
    *_, found = table(tmp_path, "\r\n".join(lines).encode("gb18030"))
    assert isinstance(found, Conversation)
    assert found.messages == (Message("user", "退款多久到账？"), Message("assistant", "三到五个工作日。"))


def test_one_wrong_byte_costs_one_row_and_not_the_encoding_of_the_file(tmp_path: Path) -> None:
    text = "问题,答案\n退款多久到账？,三天。\n如何充值？,点这里。\n".encode()
    entries = table(tmp_path, text.replace("款".encode(), b"\xe6\xac"))
    assert [type(entry) for entry in entries] == [BadLine, Conversation]
    assert isinstance(entries[0], BadLine) and entries[0].reason.startswith("not utf-8")


def test_western_encodings_are_refused_rather_than_read_as_chinese(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither UTF-8 nor GB18030; save it as UTF-8"):
        table(tmp_path, "question,answer\nWo ist die Gebühr für Überweisungen?,Hier.\n".encode("cp1252"))
    with pytest.raises(InputError, match="is UTF-16"):
        table(tmp_path, "question,answer\nWhy?,So.\n".encode("utf-16"))


def test_a_table_without_usable_columns_names_those_it_has_and_shows_a_mapping(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)it has 'subject', 'reply_text'\. .* tickets\.columns\.yaml .*role: aut"):
        table(tmp_path, "Subject,Reply_Text\nWhy?,So.\n")
    columns = Columns.model_validate({"question": "subject", "answer": "reply"})
    with pytest.raises(InputError, match="has no column 'reply'; it has 'subject', 'reply_text'"):
        table(tmp_path, "Subject,Reply_Text\nWhy?,So.\n", columns)
    with pytest.raises(InputError, match="it has 'my card <CARD_1> is gone', 'please wait'"):
        table(tmp_path, "My card 4111 1111 1111 1111 is gone,Please wait\nWhy?,So.\n")
    assert table(tmp_path, "") == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("question: q", "must name question and answer, or conversation, role and content"),
        ("question: q\nanswer: a\nreply: b", "reply: Extra inputs are not permitted"),
        ("question: [", "cannot be read: while parsing"),
        ("[1]", "file: Input should be a valid dictionary"),
        (
            "{question: q, answer: a, values: {rating: {good: x}}}",
            "values.rating.good: Input should be a valid integer",
        ),
    ],
)
def test_a_mapping_that_is_wrong_says_what_and_shows_one(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "columns.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"column mapping {path}.*{reason}"):
        read_columns(path)


def test_the_example_mappings_are_mappings(tmp_path: Path) -> None:
    from finetune.logs.columns import EXAMPLE

    for number, text in enumerate(EXAMPLE.split("\n\n")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        assert read_columns(path).complete
