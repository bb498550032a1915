import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest

from retrieval import cache
from retrieval.cache import KEPT_DAYS, VectorCache
from retrieval.errors import StorageError


class Lengths:
    """A text's vector is (its length, 1); keeps what it was asked for, and fails after so many calls."""

    def __init__(self, calls: int = 1000) -> None:
        self.asked: list[list[str]] = []
        self.calls = calls

    def __call__(self, texts: list[str]) -> np.ndarray:
        if len(self.asked) == self.calls:
            raise KeyboardInterrupt
        self.asked.append(texts)
        return np.array([[len(text), 1] for text in texts], dtype=np.float32)

    @property
    def texts(self) -> list[str]:
        return [text for texts in self.asked for text in texts]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "vectors.sqlite"


def embed(path: Path, embedder: Lengths, *texts: str, fingerprint: str = "encoder-1", kind: str = "passage") -> list:
    """The vectors of `texts` by a cache that is opened and closed for them."""
    opened = VectorCache(path, fingerprint)
    try:
        return opened.embed(kind, texts, embedder).tolist()
    finally:
        opened.close()


def test_only_texts_that_are_not_known_are_embedded(path: Path) -> None:
    embedder = Lengths()
    assert embed(path, embedder, "a", "bb") == [[1, 1], [2, 1]]
    assert embed(path, embedder, "ccc", "bb", "a") == [[3, 1], [2, 1], [1, 1]]
    assert embedder.asked == [["a", "bb"], ["ccc"]]


def test_the_same_text_is_embedded_once_and_stands_wherever_it_was_asked_for(path: Path) -> None:
    embedder = Lengths()
    assert embed(path, embedder, "a", "bb", "a") == [[1, 1], [2, 1], [1, 1]]
    assert embedder.asked == [["a", "bb"]]


def test_vectors_are_what_was_embedded_to_the_last_bit(path: Path) -> None:
    vectors = np.random.default_rng(7).normal(size=(3, 5)).astype(np.float32)
    opened = VectorCache(path, "encoder-1")
    made = opened.embed("passage", ["a", "b", "c"], lambda _: vectors)
    again = opened.embed("passage", ["a", "b", "c"], lambda _: pytest.fail("embedded again"))
    assert made.dtype == again.dtype == np.float32
    assert (made == vectors).all() and (again == vectors).all()


def test_neither_another_encoder_nor_another_kind_shares_a_vector(path: Path) -> None:
    embedder = Lengths()
    embed(path, embedder, "a")
    embed(path, embedder, "a", fingerprint="encoder-2")
    embed(path, embedder, "a", kind="question")
    assert embedder.texts == ["a", "a", "a"]


def test_a_build_that_is_killed_keeps_what_it_made_and_goes_on_from_there(path: Path) -> None:
    texts = [f"text {n:03}" for n in range(600)]
    with pytest.raises(KeyboardInterrupt):
        embed(path, Lengths(calls=1), *texts)
    again = Lengths()
    assert len(embed(path, again, *texts)) == 600
    assert again.texts == texts[256:]


@pytest.mark.parametrize("damage", ["not a database", "cut short", "a page overwritten"])
def test_a_damaged_cache_is_started_anew(path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    texts = [f"text {n}" for n in range(300)]
    embed(path, Lengths(), *texts)
    data = path.read_bytes()
    assert len(data) > 16384
    path.write_bytes(
        {
            "not a database": b"x" * 8192,
            "cut short": data[: len(data) // 2],
            "a page overwritten": data[:8192] + b"x" * 4096 + data[12288:],
        }[damage]
    )
    embedder = Lengths()
    assert len(embed(path, embedder, *texts)) == 300
    assert embedder.texts == texts
    assert f"the vector cache {path} is damaged and is started anew" in caplog.text
    embed(path, embedder, *texts)
    assert embedder.texts == texts


def test_a_cache_that_was_deleted_only_costs_time(path: Path) -> None:
    embed(path, Lengths(), "a")
    path.unlink()
    assert embed(path, Lengths(), "a") == [[1, 1]]


def test_what_no_build_used_for_thirty_days_is_dropped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()

    def build(day: int, embedder: Lengths, *texts: str) -> None:
        monkeypatch.setattr(cache.time, "time", lambda: now + 86400 * day)
        opened = VectorCache(path, "encoder-1")
        opened.embed("passage", texts, embedder)
        opened.prune()
        opened.close()

    first = Lengths()
    build(0, first, "used", "unused")
    build(20, first, "used")
    build(KEPT_DAYS, first, "used", "unused")  # the last day that it is kept
    assert first.texts == ["used", "unused"]
    build(2 * KEPT_DAYS, first, "used")
    build(2 * KEPT_DAYS + 1, first, "used", "other")
    build(2 * KEPT_DAYS + 1, first, "used", "unused")
    assert first.texts == ["used", "unused", "other", "unused"]


def test_two_builds_at_once_share_a_cache(path: Path) -> None:
    one, other = VectorCache(path, "encoder-1"), VectorCache(path, "encoder-1")
    embedder = Lengths()
    one.embed("passage", ["a"], embedder)
    assert other.embed("passage", ["a", "bb"], embedder).tolist() == [[1, 1], [2, 1]]
    assert one.embed("passage", ["bb"], embedder).tolist() == [[2, 1]]
    assert embedder.asked == [["a"], ["bb"]]


def test_a_full_disk_is_a_storage_error_that_names_the_cache(path: Path) -> None:
    """SQLite's own word for it, `database or disk is full`, reached users as a traceback."""
    opened = VectorCache(path, "encoder-1")
    opened._database.execute("PRAGMA max_page_count = 10")  # what a full disk does, to SQLite
    with pytest.raises(StorageError, match=f"cannot write {path}: database or disk is full"):
        opened.embed("passage", [f"text {n}" for n in range(2000)], Lengths())


def test_a_cache_that_may_not_be_written_is_a_storage_error(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(StorageError, match=f"cannot write {path}: unable to open database file"):
        VectorCache(path, "encoder-1")


def test_only_hashes_of_texts_are_kept(path: Path) -> None:
    embed(path, Lengths(), "a text that nobody shall read")
    database = sqlite3.connect(path)
    ((key,),) = database.execute("SELECT key FROM vectors").fetchall()
    database.close()
    assert len(key) == 32
    assert b"nobody" not in b"".join(file.read_bytes() for file in path.parent.iterdir())
