"""What files hold, from a cache or not: the law is that nobody can tell."""

import contextlib
import importlib
import json
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_build import CHINESE, FEE, REFUND, bytes_of, write
from test_readers import pdf

from assistant.redaction import redact
from retrieval import cache, contents
from retrieval.build import build
from retrieval.cache import KEPT_DAYS, Cache
from retrieval.contents import Contents, read_contents
from retrieval.documents import Skipped, knowledge_files

CARD = "4111 1111 1111 1111"
FILES: dict[str, str | bytes] = {
    "en/refund.md": f"---\ntags: [money, refunds]\n---\n{REFUND}\nPay with {CARD}.\n",
    "en/fee.md": FEE,
    "zh/refund.md": CHINESE,
    "faq.csv": "question,answer,category\nWhat is a card?,Plastic.,cards\n,Nothing.,cards\n",
    "list.jsonl": '{"path": "en/card.md", "title": "Card", "text": "A \\ud83d card."}\nno JSON\n',
    "two.pdf": pdf("A card fee is due.", "A refund is not."),
    "broken.pdf": b"no PDF at all",
    "image.md": "![a chart](chart.png)\n",
}


@pytest.fixture
def knowledge(tmp_path: Path) -> Path:
    return write(tmp_path / "knowledge", FILES)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were really read, not taken from the cache."""
    names: list[str] = []
    real = contents.parse

    def parse(name: str, data: bytes) -> object:
        names.append(name)
        return real(name, data)

    monkeypatch.setattr(contents, "parse", parse)
    return names


def read(knowledge: Path, encoder: object, by: Callable[[str], str] = redact, max_tokens: int = 256) -> Contents:
    """The contents of `knowledge` by a cache beside it, opened and closed for them."""
    with contextlib.closing(Cache(knowledge.parent / "files.sqlite", "file")) as opened:
        return read_contents(knowledge_files([knowledge])[0], by, encoder, max_tokens, opened)


def without_cache(knowledge: Path, encoder: object, *arguments: object) -> Contents:
    (knowledge.parent / "files.sqlite").unlink()
    return read(knowledge, encoder, *arguments)


def test_a_build_with_a_cache_is_to_the_last_bit_the_build_without_one(
    knowledge: Path, tmp_path: Path, keywords, parsed: list[str]
) -> None:
    write(knowledge, {"en/fee.md": "# Costs\n\nOnce the fee was 1 EUR.\n"})
    build([knowledge], tmp_path / "warm", keywords, redact)
    write(knowledge, {"en/fee.md": FEE})
    parsed.clear()
    warm = build([knowledge], tmp_path / "warm", keywords, redact)
    assert parsed == ["en/fee.md"]
    cold = build([knowledge], tmp_path / "cold", keywords, redact)
    assert len(parsed) == 1 + len(FILES)
    assert warm == cold and len(cold.skipped) == 4
    assert bytes_of(tmp_path / "warm" / warm.id) == bytes_of(tmp_path / "cold" / cold.id)


def test_files_that_did_not_change_are_not_read_again_and_say_the_same(
    knowledge: Path, keywords, parsed: list[str]
) -> None:
    first = read(knowledge, keywords)
    assert sorted(parsed) == sorted(FILES)
    parsed.clear()
    assert read(knowledge, keywords) == first
    assert parsed == []


def test_a_changed_file_changes_its_own_passages_only(knowledge: Path, keywords, parsed: list[str]) -> None:
    before = {article.document.path: article for article in read(knowledge, keywords).articles}
    parsed.clear()
    write(knowledge, {"en/fee.md": FEE.replace("2 EUR", "3 EUR")})
    changed = read(knowledge, keywords)
    after = {article.document.path: article for article in changed.articles}
    assert parsed == ["en/fee.md"]
    assert [passage.text for passage in after["en/fee.md"].passages] == ["The fee is 3 EUR."]
    assert [path for path in before if before[path] != after[path]] == ["en/fee.md"]
    assert without_cache(knowledge, keywords) == changed


def test_a_file_that_moved_has_another_path(knowledge: Path, keywords) -> None:
    read(knowledge, keywords)
    (knowledge / "en" / "fee.md").rename(knowledge / "en" / "costs.md")
    moved = read(knowledge, keywords)
    paths = [article.document.path for article in moved.articles]
    assert "en/costs.md" in paths and "en/fee.md" not in paths
    assert without_cache(knowledge, keywords) == moved


# What takes part


def test_other_code_of_the_redaction_reads_everything_again(
    knowledge: Path, tmp_path: Path, keywords, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "code" / "own_redaction.py"
    write(module.parent, {module.name: "def redact(text):\n    return text.replace('2 EUR', '<SUM>')\n"})
    monkeypatch.syspath_prepend(str(module.parent))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    try:
        own = importlib.import_module("own_redaction")
        assert "The fee is <SUM>." in str(read(knowledge, keywords, own.redact))
        module.write_text(module.read_text().replace("<SUM>", "<MONEY>"))
        own = importlib.reload(own)
        after = read(knowledge, keywords, own.redact)
    finally:
        sys.modules.pop("own_redaction", None)
    assert "The fee is <MONEY>." in str(after) and "<SUM>" not in str(after)


def test_other_code_of_this_package_reads_everything_again(
    knowledge: Path, tmp_path: Path, keywords, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package"
    write(package, {"contents.py": "", "markup.py": "a"})
    monkeypatch.setattr(contents, "__file__", str(package / "contents.py"))
    read(knowledge, keywords)
    write(package, {"markup.py": "b"})
    read(knowledge, keywords)
    assert len(parsed) == 2 * len(FILES)


def test_another_library_reads_everything_again(
    knowledge: Path, tmp_path: Path, keywords, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read(knowledge, keywords)
    (tmp_path / "site-packages" / "pypdf-99.0.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
    read(knowledge, keywords)
    assert len(parsed) == 2 * len(FILES)


def test_another_encoder_or_limit_cuts_everything_again(knowledge: Path, keywords, parsed: list[str]) -> None:
    read(knowledge, keywords)
    short = read(knowledge, keywords, redact, 5)
    assert any(article.document.path == "en/refund.md" and len(article.passages) > 2 for article in short.articles)
    keywords.fingerprint = "keywords-2"
    read(knowledge, keywords)
    assert len(parsed) == 3 * len(FILES)


def test_a_function_whose_source_does_not_say_what_it_does_never_meets_a_cached_text(knowledge: Path, keywords) -> None:
    def removing(word: str) -> Callable[[str], str]:
        return lambda text: text.replace(word, "<WORD>")

    assert "The fee is <WORD>EUR." in str(read(knowledge, keywords, removing("2 ")))
    assert "The fee is 2 <WORD>." in str(read(knowledge, keywords, removing("EUR")))


# What is kept


def test_no_personal_data_are_kept_not_even_of_what_is_skipped(tmp_path: Path, keywords) -> None:
    number = CARD.replace(" ", "")
    files: dict[str, str | bytes] = {
        "a.csv": f"{number},b\n1,2\n",
        "b.jsonl": json.dumps({number: "1"}) + "\n" + json.dumps({"path": f"{number}.md", "q": "Which?", "a": CARD}),
        f"{number}.md": "",
        "c.md": f"Pay with {CARD}.",
    }
    found = read(write(tmp_path / "knowledge", files), keywords)
    assert Skipped("<CARD_1>.md", "its name holds personal data; rename it") in found.skipped
    assert len(found.skipped) == 4 and len(found.articles) == 1
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("files.sqlite*"))
    assert b"<CARD_1>" in kept
    assert b"4111" not in kept


@pytest.mark.parametrize("damage", ["not a database", "cut short", "an entry altered", "deleted"])
def test_a_damaged_cache_only_costs_time(damage: str, knowledge: Path, tmp_path: Path, keywords) -> None:
    write(knowledge, {f"more/{n}.md": f"# Part {n}\n\nA fee.\n" for n in range(40)})
    first = read(knowledge, keywords)
    path = tmp_path / "files.sqlite"
    data = path.read_bytes()
    assert b"The fee is 2 EUR." in data
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(
            {
                "not a database": b"x" * 8192,
                "cut short": data[: len(data) // 2],
                "an entry altered": data.replace(b"The fee is 2 EUR.", b"The fee is 9 EUR."),
            }[damage]
        )
    assert read(knowledge, keywords) == first
    assert path.read_bytes().startswith(b"SQLite format 3")
    assert read(knowledge, keywords) == first


def test_what_no_build_read_for_thirty_days_is_dropped(
    knowledge: Path, tmp_path: Path, keywords, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()

    def kept_after(day: int) -> int:
        monkeypatch.setattr(cache.time, "time", lambda: now + 86400 * day)
        build([knowledge], tmp_path / "indexes", keywords, redact)
        with contextlib.closing(sqlite3.connect(tmp_path / "indexes" / "files.sqlite")) as database:
            return int(database.execute("SELECT count(*) FROM files").fetchone()[0])

    assert kept_after(0) == len(FILES)
    shutil.rmtree(knowledge / "en")
    assert kept_after(KEPT_DAYS) == len(FILES)
    assert kept_after(KEPT_DAYS + 1) == len(FILES) - 2
