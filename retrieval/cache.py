"""What a build made before, by the hash of what it was made from: nothing that did not change is made again."""

import hashlib
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from retrieval.encoder import Vectors
from retrieval.files import storage_errors

KEPT_DAYS = 30
"""What no build has used for so long is dropped."""
_AT_ONCE = 256
"""Texts embedded between two commits: what a crash can lose."""
_PER_QUERY = 500
_log = logging.getLogger(__name__)


class Cache:
    """A SQLite file of bytes by key. It can be deleted at any time: it only saves time."""

    def __init__(self, path: Path, what: Literal["vector", "file"]) -> None:
        """Open or make `path`, which holds one `what` a row; a damaged file is started anew."""
        self._path = path
        self._what = what
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=60)
            try:
                self._prepare()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                _log.warning("the %s cache %s is damaged and is started anew", what, path)
                self._database.close()
                for file in path.parent.glob(f"{path.name}*"):
                    file.unlink()
                self._database = sqlite3.connect(path, timeout=60)
                self._prepare()

    def _prepare(self) -> None:
        problems = self._database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problems != "ok":
            raise sqlite3.DatabaseError(problems)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute(
            f"CREATE TABLE IF NOT EXISTS {self._what}s "
            f"(key BLOB PRIMARY KEY, {self._what} BLOB NOT NULL, used INTEGER NOT NULL)"
        )

    def known(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """What is kept of `keys`, which count as used today."""
        known: dict[bytes, bytes] = {}
        unique = list(dict.fromkeys(keys))
        with storage_errors(self._path), self._database:
            for start in range(0, len(unique), _PER_QUERY):
                some = unique[start : start + _PER_QUERY]
                marks = ",".join("?" * len(some))
                known.update(
                    self._database.execute(
                        f"SELECT key, {self._what} FROM {self._what}s WHERE key IN ({marks})", some
                    ).fetchall()
                )
                self._database.execute(
                    f"UPDATE {self._what}s SET used = ? WHERE key IN ({marks}) AND used < ?",
                    [_today(), *some, _today()],
                )
        return known

    def keep(self, values: Mapping[bytes, bytes]) -> None:
        """Write `values`, all or none of them."""
        rows = ((key, value, _today()) for key, value in values.items())
        with storage_errors(self._path), self._database:
            self._database.executemany(f"INSERT OR REPLACE INTO {self._what}s VALUES (?, ?, ?)", rows)

    def prune(self) -> None:
        """Drop what no build has used for `KEPT_DAYS`."""
        with storage_errors(self._path), self._database:
            self._database.execute(f"DELETE FROM {self._what}s WHERE used < ?", [_today() - KEPT_DAYS])

    def close(self) -> None:
        self._database.close()


class VectorCache(Cache):
    """Vectors of one encoder, by the hash of their text."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        """Open or make `path`; `fingerprint` names the encoder."""
        super().__init__(path, "vector")
        self._fingerprint = fingerprint

    def embed(
        self, kind: str, texts: Sequence[str], embed: Callable[[list[str]], Vectors], progress: str | None = None
    ) -> Vectors:
        """Unit vectors of `texts`, float32 of shape (n, d), `embed` asked only for those not known.

        `kind` tells vectors of one text apart that are made differently. What is made is kept at once, so that
        a build that was killed goes on where it was. `progress` names a progress bar.
        """
        keys = [hashlib.sha256(f"{self._fingerprint}\0{kind}\0{text}".encode()).digest() for text in texts]
        known = {key: np.frombuffer(blob, dtype=np.float32) for key, blob in self.known(keys).items()}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        with tqdm(total=len(texts), initial=len(texts) - len(missing), desc=progress, disable=progress is None) as bar:
            for start in range(0, len(missing), _AT_ONCE):
                some = list(missing.items())[start : start + _AT_ONCE]
                for (key, _), vector in zip(some, embed([text for _, text in some]), strict=True):
                    known[key] = vector.astype(np.float32)
                self.keep({key: known[key].tobytes() for key, _ in some})
                bar.update(len(some))
        return np.stack([known[key] for key in keys])


def _today() -> int:
    return int(time.time() // 86400)
