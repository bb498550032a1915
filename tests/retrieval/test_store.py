import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from retrieval import store
from retrieval.documents import Document
from retrieval.errors import IndexDamaged
from retrieval.passages import Passage
from retrieval.store import Article, Store

REFUND = Document("en/refund.md", "Refunds", "en", "# Refunds\n\nWithin 90 days.\n", "refund", tags=("money",))
CHINESE = Document("zh/refund.md", "退款", "zh", "# 退款\n\n九十天内。\n", "refund")
FAQ = Document("faq.csv#1", "What is the fee?", "en", "2 EUR.", "faq.csv#1", question=True, first_line=None)
PASSAGES = [
    Passage("a", "zh/refund.md", "refund", "退款", "", "九十天内。", "zh", 6, 11, "line 3"),
    Passage("b", "en/refund.md", "refund", "Refunds", "", "Within 90 days.", "en", 11, 26, "line 3", ("money",)),
    Passage("c", "faq.csv#1", "faq.csv#1", "What is the fee?", "", "2 EUR.", "en", 0, 6, "", question=True),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    store.write(tmp_path / "passages.sqlite", [REFUND, CHINESE, FAQ], PASSAGES)
    return tmp_path / "passages.sqlite"


def test_passages_are_what_was_written_in_the_order_that_is_asked_for(path: Path) -> None:
    opened = Store(path)
    assert opened.passages([2, 0, 1]) == [PASSAGES[2], PASSAGES[0], PASSAGES[1]]
    assert opened.passages([]) == []


def test_what_searching_needs_of_every_passage_is_in_memory_in_their_order(path: Path) -> None:
    opened = Store(path)
    assert opened.path_of.tolist() == ["zh/refund.md", "en/refund.md", "faq.csv#1"]
    assert opened.article_of.tolist() == [0, 0, 1]  # translations are one article
    assert opened.language_of.tolist() == ["zh", "en", "en"]
    assert opened.tags_of == [frozenset(), {"money"}, frozenset()]
    assert opened.is_question.tolist() == [False, False, True]


def test_an_article_is_the_whole_document_and_a_path_without_one_is_none(path: Path) -> None:
    opened = Store(path)
    assert opened.article("zh/refund.md") == Article("zh/refund.md", "退款", "zh", "# 退款\n\n九十天内。\n")
    assert opened.article("zh/none.md") is None
    assert opened.article("' OR 1=1 --") is None


def test_the_same_content_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    store.write(tmp_path / "again.sqlite", [REFUND, CHINESE, FAQ], PASSAGES)
    assert (tmp_path / "again.sqlite").read_bytes() == path.read_bytes()


def test_reading_leaves_the_file_and_its_folder_as_they_were(path: Path) -> None:
    before = path.read_bytes()
    opened = Store(path)
    opened.article("en/refund.md")
    opened.close()
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["passages.sqlite"]


def test_many_threads_read_at_once(tmp_path: Path) -> None:
    passages = [
        Passage(str(n), f"{n}.md", f"{n}.md", f"Title {n}", "", f"Text {n}.", "en", 0, 7, "line 1") for n in range(500)
    ]
    documents = [Document(f"{n}.md", f"Title {n}", "en", f"Text {n}.", f"{n}.md") for n in range(500)]
    store.write(tmp_path / "passages.sqlite", documents, passages)
    opened = Store(tmp_path / "passages.sqlite")

    def read(n: int) -> bool:
        article = opened.article(f"{n}.md")
        return opened.passages([n, 499 - n]) == [passages[n], passages[499 - n]] and article == Article(
            f"{n}.md", f"Title {n}", "en", f"Text {n}."
        )

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(read, range(500)))


@pytest.mark.parametrize("damage", ["no database at all", "cut short", "another table"])
def test_a_file_that_is_no_store_is_damage(path: Path, damage: str) -> None:
    if damage == "no database at all":
        path.write_bytes(b"x" * 8192)
    elif damage == "cut short":
        path.write_bytes(path.read_bytes()[:4096])
    else:
        path.unlink()
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE other (x)")
        database.close()
    with pytest.raises(IndexDamaged, match="the passages of the index cannot be read"):
        Store(path)
