"""What was answered and what people thought of it: transcripts, feedback and votes, in SQLite or PostgreSQL.

Feedback stands in the row of the reply that it is about, so that it is deleted, exported and kept with it. Votes are
about the answers of an evaluation, and hold nothing of a customer's.
"""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    Column,
    ColumnElement,
    DateTime,
    Delete,
    Index,
    Integer,
    MetaData,
    Select,
    Table,
    Text,
    Update,
    delete,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from assistant.database import WRITE_IT_AS, opened, parsed_url, reason_of, shown
from assistant.redaction import Redactor, redact
from retrieval.errors import InputError, StorageError, UnknownReply

VERSION = 1
"""Of the tables."""
MOST_WAITING = 10_000
"""Transcripts kept in memory while the database cannot be reached."""
PATIENCE_S = 10.0
"""How long a caller waits for a database that cannot be reached, or that another process keeps locked."""
MOST_JUDGE_CHARACTERS = 60
_GATHER_S = 0.05
_AT_ONCE = 256
"""Rows in one transaction, or in one page of an export."""
_PAUSES_S = (0.1, 2.0)
"""Between two attempts to write: the first pause, which doubles, and the longest."""
_PREPARING = 0x5C3A
"""The advisory lock under which tables are made in PostgreSQL."""
_log = logging.getLogger("assistant")

_tables = MetaData()
_schema = Table("schema", _tables, Column("version", Integer, nullable=False))
_transcripts = Table(
    "transcripts",
    _tables,
    Column("id", Text, primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("tenant", Text, nullable=False),
    Column("customer", Text, index=True),
    Column("conversation", Text),
    Column("lang", Text, nullable=False),
    Column("arm", Text, nullable=False),
    Column("route", Text, nullable=False),
    Column("reason", Text),
    Column("release", Text, nullable=False),
    Column("messages", JSON, nullable=False),
    Column("made", JSON, nullable=False),
    Column("thumb", Text),
    Column("thumb_reason", Text),
    Column("correction", Text),
    Index("transcripts_by_time", "at", "id"),
)
_votes = Table(
    "votes",
    _tables,
    Column("run", Text, primary_key=True),
    Column("case_id", Text, primary_key=True),
    Column("judge", Text, primary_key=True),
    Column("left_arm", Text, nullable=False),
    Column("right_arm", Text, nullable=False),
    Column("preferred", Text, nullable=False),
    Column("reasons", JSON, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a request, without what was said."""

    id: str
    at: datetime
    tenant: str
    customer: str | None
    conversation: str | None
    route: str
    thumb: str | None
    status: str
    engine_failed: bool
    """It was answered without the engine."""
    first_ms: float
    """0 without a reply."""
    total_ms: float
    experiment: str | None
    arm: str | None
    """Of the experiment."""
    unit: str | None
    opening: str | None


@dataclass(frozen=True)
class Transcript:
    """One answered request, redacted by whoever made it."""

    id: str
    """The reply's: chatcmpl-…"""
    at: datetime
    tenant: str
    """Whose API key it was, or "anonymous"."""
    customer: str | None
    """A `pseudonym`, never the id that the caller gave."""
    conversation: str | None
    """The id that the caller gave it."""
    lang: str
    arm: str
    route: str
    reason: str | None
    """Why it was handed over or refused."""
    release: str
    messages: tuple[dict[str, Any], ...]
    """As the OpenAI API has them, the reply last."""
    made: dict[str, Any]
    """All else about how it was made, as JSON: adapter, index, citations, sampling, usage, milliseconds of stages."""


@dataclass(frozen=True)
class Judgement:
    """What a person preferred of two answers to a case of an evaluation, shown side by side."""

    run: str
    """Id of the evaluation."""
    case_id: str
    judge: str
    left_arm: str
    right_arm: str
    preferred: Literal["left", "right", "tie"]
    reasons: tuple[str, ...]
    at: datetime


class State:
    """An open database of transcripts and votes. Every method may be called from any thread.

    One thread writes: what was recorded while it committed becomes its next transaction. A database that cannot be
    reached is tried again until it answers.
    """

    def __init__(self, url: str) -> None:
        """Open the database, and make its tables if it is new.

        Raises:
            InputError: The URL is none, the database cannot be opened, or a newer version wrote it.
        """
        self._url = parsed_url(url)
        self._name = shown(self._url)
        self._in_file = self._url.drivername == "sqlite"
        self._engine = opened(self._url, PATIENCE_S)
        try:
            self._prepare()
        except (SQLAlchemyError, OSError) as error:
            self._engine.dispose()
            raise InputError(
                f"cannot open the database {self._name}: {reason_of(error)}; check that it runs, that its user may "
                f"create tables, and its URL: {WRITE_IT_AS}"
            ) from error
        self.dropped = 0
        """Transcripts that were lost: the database was away for too long, or refused the row."""
        self._waiting: deque[tuple[int, Transcript]] = deque()
        self._writing: list[tuple[int, Transcript]] = []
        self._recorded = 0
        self._wanted = 0
        """Callers that wait for what was recorded to be written."""
        self._away = self._full = False
        self._changed = threading.Condition()
        """Guards all of the above."""
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._write, name="transcripts", daemon=True)
        self._writer.start()

    def _prepare(self) -> None:
        database = self._url.database or ""
        if self._in_file:
            Path(database).parent.mkdir(parents=True, exist_ok=True)
            Path(database).touch(mode=0o600)  # the files beside it get the same permissions
            alone_here = "BEGIN IMMEDIATE"
        else:
            alone_here = f"SELECT pg_advisory_xact_lock({_PREPARING})"
        with self._engine.begin() as connection:
            connection.exec_driver_sql(alone_here)
            _schema.create(connection, checkfirst=True)
            version = connection.scalar(select(_schema.c.version))
            if version is None:
                connection.execute(insert(_schema).values(version=VERSION))
            elif version > VERSION:
                raise InputError(
                    f"a newer assistant wrote the database {self._name}: its tables are of version {version}, and this "
                    f"one knows version {VERSION}; upgrade the assistant, or give it another database"
                )
            _tables.create_all(connection)

    def record(self, transcript: Transcript) -> None:
        """Have a transcript written soon; this takes microseconds and raises nothing."""
        with self._changed:
            if self._closing.is_set():
                self._drop(1)
                return
            self._recorded += 1
            self._waiting.append((self._recorded, transcript))
            self._drop_oldest()
            self._changed.notify_all()

    def flush(self) -> None:
        """Return once all that was recorded before is committed.

        Raises:
            StorageError: It is not within `PATIENCE_S`; the transcripts go on waiting.
        """
        with self._changed:
            last = self._recorded
            self._wanted += 1
            self._changed.notify_all()
            written = self._changed.wait_for(lambda: self._first_waiting() > last, PATIENCE_S)
            self._wanted -= 1
            if not written:
                raise StorageError(
                    f"the database {self._name} did not take {len(self._writing) + len(self._waiting)} transcripts "
                    f"within {PATIENCE_S:g} s; they are tried again while the assistant runs: check the database"
                )

    def feedback(
        self,
        reply: str,
        thumb: Literal["up", "down"] | None,
        reason: str | None,
        correction: str | None,
        tenant: str | None = None,
    ) -> None:
        """Keep what a customer thought of a reply; it is on the disk when this returns.

        A second one about the same reply replaces what it gives: a text `""` takes that back, and thumb up takes back
        what was wrong. The texts are redacted here. With `tenant`, only replies to that one are known.

        Raises:
            UnknownReply: No such reply was recorded.
            InputError: It gives nothing.
            StorageError: The database cannot be reached.
        """
        texts = {"thumb_reason": reason, "correction": correction}
        said = {column: _storable(text) for column, text in texts.items() if text}
        given: dict[str, str | None] = {column: None for column, text in texts.items() if text == "" or thumb == "up"}
        given |= dict(zip(said, Redactor().conversation(list(said.values())), strict=True))
        if thumb:
            given["thumb"] = thumb
        if not given:
            raise InputError("the feedback is empty; give a thumb, a reason or a correction")
        self._set_opinion(reply, given, tenant)

    def withdraw(self, reply: str, tenant: str | None = None) -> None:
        """Take the feedback on a reply back; raises as `feedback` does."""
        self._set_opinion(reply, {"thumb": None, "thumb_reason": None, "correction": None}, tenant)

    def _set_opinion(self, reply: str, columns: dict[str, Any], tenant: str | None) -> None:
        change = update(_transcripts).where(_transcripts.c.id == _storable(reply)).values(columns)
        if tenant is not None:
            change = change.where(_transcripts.c.tenant == tenant)
        if self._rows_changed(change):
            return
        self.flush()
        if not self._rows_changed(change):
            raise _unknown(reply)

    def vote(self, judgement: Judgement) -> None:
        """Keep a judge's vote, in place of an earlier one on the same case; it is on the disk when this returns.

        The judge's name is redacted here.

        Raises:
            InputError: The judge's name is empty, or too long.
            StorageError: The database cannot be reached.
        """
        row = {**vars(judgement), "judge": _judge(judgement.judge), "at": _utc(judgement.at)}
        new = (sqlite.insert(_votes) if self._in_file else postgresql.insert(_votes)).values(row)
        with self._answering(), self._engine.begin() as connection:
            connection.execute(new.on_conflict_do_update(index_elements=_votes.primary_key.columns, set_=row))

    def unvote(self, run: str, case_id: str, judge: str) -> bool:
        """Take a vote back, and say whether there was one; raises as `vote` does."""
        columns = _votes.c
        which = (columns.run == run) & (columns.case_id == case_id) & (columns.judge == _judge(judge))
        return self._rows_changed(delete(_votes).where(which)) > 0

    def votes(self, run: str) -> Iterator[Judgement]:
        """The votes on an evaluation's answers, in order of time.

        Raises:
            StorageError: The database cannot be reached.
        """
        query = select(_votes).where(_votes.c.run == run).order_by(_votes.c.at, _votes.c.case_id, _votes.c.judge)
        with self._answering(), self._engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        for row in rows:
            yield Judgement(**{**row, "reasons": tuple(row["reasons"]), "at": _utc(row["at"])})

    def export(self, since: datetime | None = None) -> Iterator[dict[str, Any]]:
        """Whole answers in order of time as lines of a log, in the format that finetune/logs/formats.py describes.

        Raises:
            StorageError: The database cannot be reached.
        """
        for row in self._rows(select(_transcripts), since):
            if row["made"].get("status", "answered") == "answered":
                yield _line(row)

    def transcript(self, reply: str) -> Transcript:
        """The transcript that ends with a reply.

        Raises:
            UnknownReply: No such reply was recorded.
            StorageError: The database cannot be reached.
        """
        self.flush()
        query = _whole_rows().where(_transcripts.c.id == _storable(reply))
        with self._answering(), self._engine.connect() as connection:
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise _unknown(reply)
        return _transcript(dict(row))

    def transcripts(self, since: datetime) -> Iterator[Transcript]:
        """Transcripts from a time on, in order of time; a page of them is in memory at a time.

        Raises:
            StorageError: The database cannot be reached.
        """
        for row in self._rows(_whole_rows(), since):
            yield _transcript(row)

    def recorded(self, since: datetime) -> Iterator[Recorded]:
        """What became of each request from a time on, in order of time; failed ones of an experiment among them.

        Raises:
            StorageError: The database cannot be reached.
        """
        columns, made = _transcripts.c, _transcripts.c.made
        query = select(
            *(columns.id, columns.at, columns.tenant, columns.customer, columns.conversation, columns.route),
            columns.thumb,
            made["status"].as_string().label("status"),
            made["degraded"].as_string().label("degraded"),
            made["ms", "first"].as_float().label("first_ms"),
            made["ms", "total"].as_float().label("total_ms"),
            made["experiment", "name"].as_string().label("experiment"),
            made["experiment", "arm"].as_string().label("arm"),
            made["experiment", "unit"].as_string().label("unit"),
            made["experiment", "opening"].as_string().label("opening"),
        )
        for row in self._rows(query, since):
            degraded = row.pop("degraded") or ""
            row |= {"at": _utc(row["at"]), "status": row["status"] or "answered", "engine_failed": "engine" in degraded}
            yield Recorded(**row | {name: row[name] or 0.0 for name in ("first_ms", "total_ms")})

    def experiment_arm(self, reply: str) -> str | None:
        """The arm of the experiment that a reply belongs to, if it does to one."""
        arm = _transcripts.c.made["experiment", "arm"].as_string()
        with self._answering(), self._engine.connect() as connection:
            return connection.scalar(select(arm).where(_transcripts.c.id == _storable(reply)))

    def _rows(self, rows_of: Select[Any], since: datetime | None) -> Iterator[dict[str, Any]]:
        self.flush()
        columns = _transcripts.c
        query = rows_of.order_by(columns.at, columns.id).limit(_AT_ONCE)
        page = query if since is None else query.where(columns.at >= _utc(since))
        # A page is a transaction of its own: one that lasted as long as its reader would keep deleted text in the log.
        while True:
            with self._answering(), self._engine.connect() as connection:
                rows = connection.execute(page).mappings().all()
            yield from map(dict, rows)
            if len(rows) < _AT_ONCE:
                return
            at, id = _utc(rows[-1]["at"]), rows[-1]["id"]
            page = query.where(or_(columns.at > at, (columns.at == at) & (columns.id > id)))

    def forget(self, customer: str) -> int:
        """Delete all transcripts of a `pseudonym`, with their feedback; returns how many.

        From SQLite's files, which are written anew, the text is gone when this returns. PostgreSQL overwrites it some
        time after its VACUUM came by, and keeps it in archived logs and backups for as long as these are kept.

        Raises:
            StorageError: The database cannot be reached, or another process keeps reading the deleted text.
        """
        self.flush()
        return self._delete(_transcripts.c.customer == customer)

    def prune(self, before: datetime) -> int:
        """Delete all transcripts from before a time, with their feedback, as `forget` does; returns how many."""
        return self._delete(_transcripts.c.at < _utc(before))

    def close(self) -> None:
        """Write what waits, for at most `PATIENCE_S`, and close the database. A second time does nothing."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        self._writer.join(PATIENCE_S)
        with self._changed:
            left = len(self._writing) + len(self._waiting)
            self._waiting.clear()
            if left:
                self._drop(left)
        self._engine.dispose()

    def _write(self) -> None:
        pause_s, longest_s = _PAUSES_S
        while batch := self._take():
            try:
                self._commit([transcript for _, transcript in batch])
            except Exception as error:  # whatever a driver raises, this thread must live on to try again
                self._give_back(batch, error)
                if self._closing.is_set():
                    return
                self._closing.wait(pause_s)
                pause_s = min(2 * pause_s, longest_s)
            else:
                self._settle()
                pause_s, _ = _PAUSES_S

    def _take(self) -> list[tuple[int, Transcript]]:
        """What waits, once there is something; nothing when all is written and the database is to be closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing.is_set())
            # A transaction costs as much as ten requests: what comes right after the first one shares it.
            self._changed.wait_for(lambda: self._wanted or self._closing.is_set(), _GATHER_S)
            self._writing = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
            return self._writing

    def _commit(self, batch: list[Transcript]) -> None:
        """Write a batch, all of it or nothing; without the rows that the database can never take."""
        rows = [
            {**vars(each), "at": _utc(each.at), "conversation": each.conversation and _storable(each.conversation)}
            for each in batch
        ]
        new = sqlite.insert(_transcripts) if self._in_file else postgresql.insert(_transcripts)
        try:
            with self._engine.begin() as connection:
                # Where the connection broke on the commit, nobody knows whether it happened: writing twice is harmless.
                connection.execute(new.on_conflict_do_nothing(), rows)
        except (StatementError, TypeError, ValueError) as error:
            if isinstance(error, DBAPIError) and not isinstance(error, DataError | IntegrityError):
                raise  # it takes no row at all
            if len(batch) > 1:
                for transcript in batch:
                    self._commit([transcript])
                return
            _log.warning("%s is not recorded: the database refuses it (%s)", batch[0].id, type(error).__name__)
            with self._changed:
                self.dropped += 1

    def _give_back(self, batch: list[tuple[int, Transcript]], error: Exception) -> None:
        with self._changed:
            self._writing = []
            self._waiting.extendleft(reversed(batch))
            if not self._away:
                _log.warning("the database %s takes no transcripts (%s); trying again", self._name, reason_of(error))
            self._away = True
            self._drop_oldest()
            self._changed.notify_all()

    def _settle(self) -> None:
        with self._changed:
            self._writing = []
            if self._away:
                _log.warning("the database %s takes transcripts again; %d were lost", self._name, self.dropped)
            self._away = self._full = False
            self._changed.notify_all()

    def _drop_oldest(self) -> None:
        while len(self._waiting) > MOST_WAITING:
            self._waiting.popleft()
            self._drop(1)

    def _drop(self, count: int) -> None:
        self.dropped += count
        if not self._full:
            _log.warning("transcripts are being lost: the database %s takes none, and no more can wait", self._name)
        self._full = True

    def _first_waiting(self) -> int:
        """The number of the first transcript that is not settled."""
        unsettled = self._writing or self._waiting
        return unsettled[0][0] if unsettled else self._recorded + 1

    def _rows_changed(self, change: Update | Delete) -> int:
        with self._answering(), self._engine.begin() as connection:
            return connection.execute(change).rowcount

    def _delete(self, which: ColumnElement[bool]) -> int:
        some = select(_transcripts.c.id).where(which).limit(_AT_ONCE)
        deleted = 0
        while count := self._rows_changed(delete(_transcripts).where(_transcripts.c.id.in_(some))):
            deleted += count
        if self._in_file:
            with self._answering(), self._engine.connect() as connection:
                # Whenever SQLite moves rows between pages, it leaves copies in the gaps, which secure_delete misses.
                connection.exec_driver_sql("VACUUM")
                busy, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
            if busy:
                raise StorageError(
                    f"{deleted} transcripts are deleted, but {self._name}-wal still holds their text, because another "
                    "process is reading it; do the same again once that has ended"
                )
        return deleted

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise StorageError(
                f"the database {self._name} failed: {reason_of(error)}; check that it runs and has space, and try again"
            ) from error


def _utc(at: datetime) -> datetime:
    """`at` in UTC; SQLite keeps no zone."""
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)


def _storable(text: str) -> str:
    """`text` without zero bytes, which PostgreSQL cannot hold, and halves of surrogate pairs, which nothing can."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _judge(name: str) -> str:
    judge = redact(_storable(name).strip())
    if not 0 < len(judge) <= MOST_JUDGE_CHARACTERS:
        raise InputError(f"a judge's name has {len(judge)} characters; give one of 1 to {MOST_JUDGE_CHARACTERS}")
    return judge


def _unknown(reply: str) -> UnknownReply:
    return UnknownReply(
        f"there is no reply {redact(reply)[:60]!r}; give the id of a chat completion, as the answer has it. "
        "Replies are deleted after their retention, and when a customer is forgotten"
    )


def _whole_rows() -> Select[Any]:
    return select(*(_transcripts.c[each.name] for each in fields(Transcript)))


def _transcript(row: dict[str, Any]) -> Transcript:
    return Transcript(**row | {"at": _utc(row["at"]), "messages": tuple(row["messages"])})


def _line(row: dict[str, Any]) -> dict[str, Any]:
    line = {name: row[name] for name in ("id", "at", "lang", "messages", "route", "release")}
    line["at"] = _utc(row["at"]).isoformat().replace("+00:00", "Z")
    feedback = {"thumb": row["thumb"], "reason": row["thumb_reason"], "correction": row["correction"]}
    feedback = {name: text for name, text in feedback.items() if text is not None}
    return {**line, "feedback": feedback} if feedback else line
