import os
import warnings
import zipfile
from pathlib import Path

import pytest

from retrieval import documents
from retrieval.documents import Skipped, Unreadable, knowledge_files, parse
from retrieval.errors import InputError


def write(folder: Path, *names: str) -> Path:
    """`folder` with files of these names, each of which holds its name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def archive(path: Path, **texts: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, text in texts.items():
            file.writestr(name.replace("__", "/") + ".md", text)
    return path


def names(*sources: Path, exclude: tuple[str, ...] = ()) -> list[str]:
    return [file.name for file in knowledge_files(sources, exclude)[0]]


def test_a_folder_gives_its_files_sorted_without_hidden_and_excluded_ones(tmp_path: Path) -> None:
    write(tmp_path, "c.md", "b/x.pdf", "b/.y.md", ".git/z.md", "drafts/d.md", "draftsman.txt", "a.JSONL")
    assert names(tmp_path, exclude=("drafts/", "c.md")) == ["a.JSONL", "b/x.pdf", "draftsman.txt"]


def test_a_file_is_called_by_its_own_name_and_read_only_when_asked(tmp_path: Path) -> None:
    write(tmp_path, "b/x.md")
    (file,), skipped = knowledge_files([tmp_path / "b" / "x.md"])
    assert (file.name, skipped) == ("x.md", [])
    (tmp_path / "b" / "x.md").write_text("later")
    assert file.read() == b"later"


def test_several_sources_give_one_sorted_list(tmp_path: Path) -> None:
    write(tmp_path, "one/b.md", "two/c.csv", "two/a.csv")
    zipped = archive(tmp_path / "three.zip", bb="text")
    assert names(tmp_path / "two", zipped, tmp_path / "one" / "b.md") == ["a.csv", "b.md", "bb.md", "c.csv"]


def test_a_name_in_two_sources_is_an_input_error_that_names_both(tmp_path: Path) -> None:
    write(tmp_path, "one/a.md", "two/a.md")
    with pytest.raises(InputError, match=f"a.md stands in both {tmp_path}/one and {tmp_path}/two"):
        names(tmp_path / "one", tmp_path / "two")


def test_files_of_other_kinds_are_reported_once_for_each_kind(tmp_path: Path) -> None:
    write(tmp_path, "a.md", "1.png", "b/2.png", "3.PNG", "LICENSE")
    assert knowledge_files([tmp_path])[1] == [
        Skipped("*", "1 file of a kind that is not read"),
        Skipped("*.png", "3 files of a kind that is not read"),
    ]


def test_a_source_that_does_not_exist_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"knowledge {tmp_path}/no does not exist; give a folder, file or zip archive"):
        names(tmp_path / "no")


def test_sources_without_a_file_to_read_are_an_input_error_with_the_kinds_and_the_reasons(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    with pytest.raises(InputError, match=rf"(?s)no file to read in {tmp_path}; .* \.md, \.mdx, .*\*\.png: 1 file"):
        names(tmp_path)


def test_links_to_folders_are_followed_once_so_that_a_loop_ends(tmp_path: Path) -> None:
    write(tmp_path, "base/a.md", "elsewhere/b.md")
    (tmp_path / "base" / "loop").symlink_to(tmp_path / "base")
    (tmp_path / "base" / "other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "base" / "gone.md").symlink_to(tmp_path / "nothing")
    assert names(tmp_path / "base") == ["a.md", "other/b.md"]


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    write(tmp_path, "a.md")
    os.mkfifo(tmp_path / "b.md")
    assert names(tmp_path) == ["a.md"]


def test_a_file_that_vanished_is_unreadable(tmp_path: Path) -> None:
    write(tmp_path, "a.md")
    (file,), _ = knowledge_files([tmp_path])
    (tmp_path / "a.md").unlink()
    with pytest.raises(Unreadable, match="cannot be opened: No such file"):
        file.read()


def test_a_file_above_the_limit_is_skipped_unread(tmp_path: Path) -> None:
    write(tmp_path, "a.md", "big.md")
    os.truncate(tmp_path / "big.md", 201 * 2**20)
    assert knowledge_files([tmp_path])[1] == [Skipped("big.md", "201 MB, more than 200; split it")]


def test_an_archive_is_like_a_folder(tmp_path: Path) -> None:
    zipped = archive(tmp_path / "kb.zip", b__x="X", a="A", drafts__d="D")
    with zipfile.ZipFile(zipped, "a") as file:
        file.writestr("__MACOSX/._a.md", "junk")
        file.writestr("inner.zip", "junk")
        file.mkdir("empty")
    files, skipped = knowledge_files([zipped], exclude=("drafts",))
    assert [(file.name, file.read()) for file in files] == [("a.md", b"A"), ("b/x.md", b"X")]
    assert skipped == [Skipped("inner.zip", "an archive within another source is not opened; give it as a source")]


@pytest.mark.parametrize("encoding", ["gb18030", "utf-8"])
def test_a_chinese_name_in_an_archive_without_the_flag_for_it_is_right(tmp_path: Path, encoding: str) -> None:
    """Windows writes GB18030 and macOS UTF-8, and neither says so; both came out as line drawings."""
    raw = "退款".encode(encoding)
    zipped = archive(tmp_path / "kb.zip", **{"X" * len(raw): "text", "手续费": "text"})
    zipped.write_bytes(zipped.read_bytes().replace(b"X" * len(raw), raw))
    assert names(zipped) == ["手续费.md", "退款.md"]


def test_a_damaged_member_is_unreadable_and_the_others_are_read(tmp_path: Path) -> None:
    zipped = archive(tmp_path / "kb.zip", a="first text", b="other text")
    zipped.write_bytes(zipped.read_bytes().replace(b"other text", b"OTHER TEXT"))
    first, second = knowledge_files([zipped])[0]
    assert first.read() == b"first text"
    with pytest.raises(Unreadable, match="damaged in the archive: Bad CRC-32"):
        second.read()


def test_a_member_with_a_password_is_skipped(tmp_path: Path) -> None:
    zipped = archive(tmp_path / "kb.zip", a="text", locked="text")
    data = bytearray(zipped.read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.rindex(header) + flags] |= 1
    zipped.write_bytes(data)
    files, skipped = knowledge_files([zipped])
    assert [file.name for file in files] == ["a.md"]
    assert skipped == [Skipped("locked.md", "needs a password; give an archive without one")]


def test_an_archive_that_unpacks_to_too_much_is_skipped_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_ARCHIVE_BYTES", 2 * 2**20)
    bomb = archive(tmp_path / "bomb.zip", **{f"a{n}": "0" * 2**20 for n in range(3)})
    write(tmp_path, "kb/a.md")
    files, skipped = knowledge_files([tmp_path / "kb", bomb])
    assert [file.name for file in files] == ["a.md"]
    assert skipped == [Skipped("bomb.zip", "its files unpack to 3 MB, more than 2; split it")]


def test_a_member_that_states_a_smaller_size_is_not_read_beyond_it(tmp_path: Path) -> None:
    zipped = tmp_path / "kb.zip"
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.md", "0" * 2**20)
    size = (2**20).to_bytes(4, "little")
    zipped.write_bytes(zipped.read_bytes().replace(size, (10).to_bytes(4, "little")))
    (file,), _ = knowledge_files([zipped])
    with pytest.raises(Unreadable, match="damaged in the archive"):
        file.read()


def test_what_is_no_archive_is_skipped_and_says_so(tmp_path: Path) -> None:
    write(tmp_path, "kb.zip", "docs/a.md")
    _, (skip,) = knowledge_files([tmp_path / "docs", tmp_path / "kb.zip"])
    assert skip == Skipped("kb.zip", "no zip archive, or a damaged one: File is not a zip file")


def test_a_member_twice_in_an_archive_counts_as_its_last(tmp_path: Path) -> None:
    zipped = archive(tmp_path / "kb.zip", a="old")
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(zipped, "a") as file:
        file.writestr("a.md", "new")
    assert [file.read() for file in knowledge_files([zipped])[0]] == [b"new"]


@pytest.mark.parametrize("suffix", [suffix for suffix in documents.SUFFIXES if suffix not in (".txt", ".jsonl")])
def test_whatever_stands_in_a_file_parse_raises_nothing_but_unreadable(suffix: str) -> None:
    for data in (b"", b"\x00\xff" * 50, b"%PDF-1.7\nxref", b"PK\x03\x04rubbish", b"<p>", b"---\na: [\n---\n"):
        try:
            parse(f"a{suffix}", data)
        except Unreadable as error:
            assert "\n" not in str(error) and str(error)


def test_a_damaged_file_says_what_its_reader_said() -> None:
    with pytest.raises(Unreadable, match=r"damaged, or no \.docx file: BadZipFile: File is not a zip file"):
        parse("a.docx", b"hello")


def test_a_file_of_another_kind_names_the_kinds_that_are_read() -> None:
    with pytest.raises(Unreadable, match=r"^\.odt is not read, only \.md, \.mdx"):
        parse("a.odt", b"hello")


@pytest.mark.parametrize(
    ("name", "data"), [("a.md", b"---\ntitle: T\n---\n \n"), ("a.csv", b"question\n"), ("a.jsonl", b"")]
)
def test_a_file_without_text_is_unreadable(name: str, data: bytes) -> None:
    with pytest.raises(Unreadable, match=r"^no text$"):
        parse(name, data)


def test_the_suffixes_are_those_that_have_a_reader() -> None:
    from retrieval import question_lists, readers

    assert {*documents.SUFFIXES} == {*readers.READERS, *question_lists.READERS}
