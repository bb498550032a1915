"""Vectors that were made before, by the hash of their text: what did not change is not embedded again."""

import hashlib
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from retrieval.encoder import Vectors
from retrieval.files import storage_errors

KEPT_DAYS = 30
"""Vectors that no build has used for so long are dropped."""
_AT_ONCE = 256
"""Texts embedded between two commits: what a crash can lose."""
_PER_QUERY = 500
_log = logging.getLogger(__name__)


class VectorCache:
    """A SQLite file of vectors. It can be deleted at any time: it only saves time."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        """Open or make `path`; a damaged file is started anew. `fingerprint` names the encoder."""
        self._path = path
        self._fingerprint = fingerprint
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=60)
            try:
                self._prepare()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                _log.warning("the vector cache %s is damaged and is started anew", path)
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
            "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL, used INTEGER NOT NULL)"
        )

    def embed(
        self, kind: str, texts: Sequence[str], embed: Callable[[list[str]], Vectors], progress: str | None = None
    ) -> Vectors:
        """Unit vectors of `texts`, float32 of shape (n, d), `embed` asked only for those not known.

        `kind` tells vectors of one text apart that are made differently. What is made is kept at once, so that
        a build that was killed goes on where it was. `progress` names a progress bar.
        """
        keys = [hashlib.sha256(f"{self._fingerprint}\0{kind}\0{text}".encode()).digest() for text in texts]
        known = self._known(keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        with tqdm(total=len(texts), initial=len(texts) - len(missing), desc=progress, disable=progress is None) as bar:
            for start in range(0, len(missing), _AT_ONCE):
                some = list(missing.items())[start : start + _AT_ONCE]
                for (key, _), vector in zip(some, embed([text for _, text in some]), strict=True):
                    known[key] = vector
                self._keep({key: known[key] for key, _ in some})
                bar.update(len(some))
        return np.stack([known[key] for key in keys])

    def _known(self, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
        known: dict[bytes, Vectors] = {}
        unique = list(dict.fromkeys(keys))
        with storage_errors(self._path), self._database:
            for start in range(0, len(unique), _PER_QUERY):
                some = unique[start : start + _PER_QUERY]
                marks = ",".join("?" * len(some))
                for key, blob in self._database.execute(
                    f"SELECT key, vector FROM vectors WHERE key IN ({marks})", some
                ):
                    known[key] = np.frombuffer(blob, dtype=np.float32)
                self._database.execute(
                    f"UPDATE vectors SET used = ? WHERE key IN ({marks}) AND used < ?", [_today(), *some, _today()]
                )
        return known

    def _keep(self, vectors: dict[bytes, Vectors]) -> None:
        rows = ((key, vector.astype(np.float32).tobytes(), _today()) for key, vector in vectors.items())
        with storage_errors(self._path), self._database:
            self._database.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)

    def prune(self) -> None:
        """Drop what no build has used for `KEPT_DAYS`."""
        with storage_errors(self._path), self._database:
            self._database.execute("DELETE FROM vectors WHERE used < ?", [_today() - KEPT_DAYS])

    def close(self) -> None:
        self._database.close()


def _today() -> int:
    return int(time.time() // 86400)
