"""Documents and passages of an index, in one SQLite file that is only read once it is written."""

import json
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.documents import Document
from retrieval.errors import IndexDamaged
from retrieval.language import Language
from retrieval.passages import Passage

_SCHEMA = """
CREATE TABLE documents (path TEXT PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE passages (
    position INTEGER PRIMARY KEY, path TEXT NOT NULL, article TEXT NOT NULL, language TEXT NOT NULL,
    tags TEXT NOT NULL, question INTEGER NOT NULL, passage TEXT NOT NULL
);
"""


@dataclass(frozen=True)
class Article:
    """A document as it is shown to readers of a citation."""

    path: str
    title: str
    language: Language
    text: str
    """Markdown, personal data removed; what the spans of passages refer to."""


def write(path: Path, documents: Iterable[Document], passages: Sequence[Passage]) -> None:
    """Write a new store; the same content gives the same bytes."""
    database = sqlite3.connect(path)
    try:
        database.execute("PRAGMA journal_mode = OFF")  # the folder it is in appears whole or not at all
        database.executescript(_SCHEMA)
        with database:
            database.executemany(
                "INSERT INTO documents VALUES (?, ?)",
                ((document.path, _json(_article(document))) for document in documents),
            )
            database.executemany(
                "INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, ?)", map(_row, range(len(passages)), passages)
            )
    finally:
        database.close()


def _article(document: Document) -> dict[str, Any]:
    return vars(Article(document.path, document.title, document.language, document.text))


def _row(position: int, passage: Passage) -> tuple[int, str, str, str, str, bool, str]:
    tags = _json(passage.tags)
    return (
        *(position, passage.path, passage.article, passage.language),
        *(tags, passage.question, _json(vars(passage))),
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


class Store:
    """An open store. Reading is thread-safe."""

    def __init__(self, path: Path) -> None:
        """Open `path`, whose hash was checked: SQLite parses it natively and trusts it."""
        self._database = sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True, check_same_thread=False)
        self._lock = threading.Lock()
        rows = self._all("SELECT path, article, language, tags, question FROM passages ORDER BY position")
        paths, articles, languages, tags, questions = zip(*rows, strict=True) if rows else ((),) * 5
        self.path_of: npt.NDArray[np.object_] = np.array(paths, dtype=object)
        """Path of each passage's document, of shape (passages,)."""
        names = {name: number for number, name in enumerate(dict.fromkeys(articles))}
        self.article_of = np.array([names[article] for article in articles], dtype=np.int32)
        """A number for each passage's article."""
        self.language_of: npt.NDArray[np.str_] = np.array(languages, dtype="<U2")
        self.tags_of: list[frozenset[str]] = [_tags(text) for text in tags]
        self.is_question = np.array(questions, dtype=bool)

    def passages(self, positions: Sequence[int]) -> list[Passage]:
        """The passages at `positions`, in that order."""
        marks = ",".join("?" * len(positions))
        rows = self._all(f"SELECT position, passage FROM passages WHERE position IN ({marks})", positions)
        found = {position: _passage(text) for position, text in rows}
        return [found[position] for position in positions]

    def article(self, path: str) -> Article | None:
        """The document at `path`; None if there is none."""
        rows = self._all("SELECT document FROM documents WHERE path = ?", [path])
        return Article(**json.loads(rows[0][0])) if rows else None

    def close(self) -> None:
        self._database.close()

    def _all(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            with self._lock:
                return self._database.execute(query, list(values)).fetchall()
        except sqlite3.DatabaseError as error:
            raise IndexDamaged(f"the passages of the index cannot be read ({error}); run: assistant index") from error


def _tags(text: str) -> frozenset[str]:
    return frozenset(json.loads(text))


def _passage(text: str) -> Passage:
    values = json.loads(text)
    return Passage(**{**values, "tags": tuple(values["tags"])})
