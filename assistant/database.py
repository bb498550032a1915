"""A database by its URL, SQLite or PostgreSQL: no message holds a password or what stands in a row."""

import sqlite3

import orjson
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError

from retrieval.errors import InputError

WRITE_IT_AS = "write sqlite:////folder/state.db or postgresql://user:password@host/database"


def parsed_url(url: str) -> URL:
    """The URL with its driver.

    Raises:
        InputError: It is no URL of a database that is supported; the message never holds a password.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise InputError(
            f"the database URL, not shown since it may hold a password, cannot be read; {WRITE_IT_AS}"
        ) from None
    if "@" in f"{parsed.host}{parsed.database}" and parsed.drivername != "sqlite":
        raise InputError(
            "the database URL, not shown since it holds a password, has a second @; write @ in a password as %40, "
            "/ as %2F and : as %3A"
        )
    if parsed.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed
    raise InputError(f"the database {shown(parsed)} is none that transcripts can be kept in; {WRITE_IT_AS}")


def shown(url: URL) -> str:
    """The URL without passwords, which may stand among its options, too."""
    return url.set(drivername=url.get_backend_name(), query={}).render_as_string(hide_password=True)


def opened(url: URL, patience_s: float) -> Engine:
    """An engine on it, whose callers wait `patience_s` for a lock at most."""
    in_file = url.drivername == "sqlite"
    # A network that swallows packets would hold the writer for minutes; PgBouncer forgets prepared statements.
    server = {"connect_timeout": 5, "tcp_user_timeout": 10_000, "prepare_threshold": None}
    engine = create_engine(
        url,
        connect_args={"timeout": patience_s} if in_file else server,
        pool_pre_ping=True,
        hide_parameters=True,
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
    )
    if in_file:
        event.listen(engine, "connect", _durable)
    return engine


def _durable(connection: sqlite3.Connection, _: object) -> None:
    """A commit survives a power cut, and what is deleted is overwritten."""
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
        connection.execute(f"PRAGMA {pragma}")


def reason_of(error: Exception) -> str:
    """What a database said, without anything that stood in a row."""
    said = error.orig if isinstance(error, DBAPIError) else error
    may_quote = isinstance(error, DataError | IntegrityError) or not isinstance(error, DBAPIError | OSError)
    lines = str(said).strip().splitlines()
    return type(said).__name__ if may_quote or not lines else lines[0]
