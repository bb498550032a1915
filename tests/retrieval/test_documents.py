from pathlib import Path

import pytest

from retrieval.documents import Document, Skipped, read_documents
from retrieval.errors import InputError


def write(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    return folder


def test_front_matter_names_the_article_title_and_language(tmp_path: Path) -> None:
    write(tmp_path, a="---\nid: refunds\ntitle: Refunds\nlanguage: zh\n---\n\nOnly English words\n")
    assert read_documents(tmp_path) == ([Document("a.md", "Refunds", "zh", "Only English words", "refunds", 6)], [])


def test_without_front_matter_the_first_heading_is_the_title_and_the_path_the_article(tmp_path: Path) -> None:
    (tmp_path / "zh").mkdir()
    write(tmp_path / "zh", a="text first\n\n## 退款期限\n\n九十天\n")
    (document,), _ = read_documents(tmp_path)
    assert (document.title, document.article, document.language) == ("退款期限", "zh/a.md", "zh")


def test_without_any_heading_the_file_name_is_the_title(tmp_path: Path) -> None:
    (tmp_path / "late-refunds.txt").write_text("They come later.")
    assert read_documents(tmp_path)[0][0].title == "late refunds"


def test_documents_come_sorted_and_hidden_other_and_excluded_files_are_left_out(tmp_path: Path) -> None:
    for folder in ("b", "drafts", ".git"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, x="text")
    write(tmp_path, c="text", a="text", draftsman="text")
    (tmp_path / "picture.png").write_bytes(b"text")
    documents, skipped = read_documents(tmp_path, exclude=("drafts/", "c.md"))
    assert [document.path for document in documents] == ["a.md", "b/x.md", "draftsman.md"]
    assert skipped == []


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbf---\ntitle: T\n---\nbody")
    assert read_documents(tmp_path)[0][0].title == "T"


def test_a_file_that_is_not_utf8_is_skipped_with_its_name_and_the_rest_is_read(tmp_path: Path) -> None:
    write(tmp_path, good="text")
    (tmp_path / "latin.md").write_bytes("café".encode("latin-1"))
    documents, (skip,) = read_documents(tmp_path)
    assert [document.path for document in documents] == ["good.md"]
    assert skip.path == "latin.md" and "utf-8" in skip.reason


def test_broken_front_matter_is_skipped_and_says_so(tmp_path: Path) -> None:
    write(tmp_path, good="text", broken="---\ntitle: [unclosed\n---\nbody")
    _, (skip,) = read_documents(tmp_path)
    assert skip.path == "broken.md" and "front matter is not YAML" in skip.reason
    assert "\n" not in skip.reason


def test_an_empty_document_is_skipped(tmp_path: Path) -> None:
    write(tmp_path, good="text", empty="---\ntitle: T\n---\n \n")
    assert read_documents(tmp_path)[1] == [Skipped("empty.md", "no text")]


def test_a_missing_folder_is_an_input_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}/no does not exist; give one with --knowledge"):
        read_documents(tmp_path / "no")


def test_a_folder_without_readable_documents_is_an_input_error_with_every_reason(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path} holds no readable document"):
        read_documents(tmp_path)
    write(tmp_path, empty=" ")
    with pytest.raises(InputError, match=r"empty\.md: no text"):
        read_documents(tmp_path)
