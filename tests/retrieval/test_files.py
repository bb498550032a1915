import errno
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval.errors import StorageError
from retrieval.files import content_id, folder_hashes, new_folder, sha256, storage_errors, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refuse(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_folder_hashes_name_every_file_by_its_posix_path_sorted(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/x", "a"):
        (tmp_path / name).write_text(name)
    assert list(folder_hashes(tmp_path)) == ["a", "b/x"]


def test_content_ids_keep_parts_apart() -> None:
    assert len(content_id("ab", "c")) == 12
    assert content_id("ab", "c") == content_id("ab", "c")
    assert len({content_id("ab", "c"), content_id("a", "bc"), content_id("abc"), content_id("abc", "")}) == 4


def test_write_text_makes_the_folder_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_text(path, "old")
    write_text(path, "新")
    assert path.read_text(encoding="utf-8") == "新"
    assert names(path.parent) == ["file"]


def test_a_full_disk_leaves_the_old_file_and_no_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=f"cannot write {path}: No space left on device"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_an_interrupt_in_the_middle_leaves_the_old_file_and_no_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_write_that_the_system_cuts_short_leaves_the_old_file_and_no_scratch(tmp_path: Path) -> None:
    """The real thing: the kernel refuses bytes beyond a limit."""
    path = tmp_path / "file"
    path.write_text("old")
    code = (
        "import sys, pathlib; from retrieval.files import write_text; from retrieval.errors import StorageError\n"
        "try: write_text(pathlib.Path(sys.argv[1]), 'x' * 100_000)\n"
        "except StorageError as error: print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert run.stdout.startswith(f"cannot write {path}: File too large"), run.stderr
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_file_where_a_folder_should_be_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=f"cannot write {tmp_path}"):
        write_text(tmp_path / "file" / "below", "text")


def test_a_database_that_the_disk_refuses_is_a_storage_error_and_other_errors_of_it_are_not(tmp_path: Path) -> None:
    """SQLite's errors are no OSError; `database or disk is full` reached users as a traceback."""
    database = sqlite3.connect(tmp_path / "new.sqlite")
    database.execute("PRAGMA max_page_count = 4")
    database.execute("CREATE TABLE t (x)")
    with (
        pytest.raises(StorageError, match=f"cannot write {tmp_path}: database or disk is full"),
        storage_errors(tmp_path),
    ):
        database.executemany("INSERT INTO t VALUES (?)", [("x" * 1000,)] * 100)
    with pytest.raises(sqlite3.OperationalError, match="no such table"), storage_errors(tmp_path):
        database.execute("SELECT * FROM none")
    with pytest.raises(StorageError, match="unable to open database file"), storage_errors(tmp_path):
        sqlite3.connect(tmp_path / "nowhere" / "new.sqlite")
    database.close()


def test_a_new_folder_appears_whole_when_its_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "folder"
    with new_folder(target) as scratch:
        (scratch / "a").write_text("text")
        assert not target.exists()
    assert names(target) == ["a"]
    assert names(target.parent) == ["folder"]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_its_block_leaves_no_folder_and_no_scratch(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), new_folder(tmp_path / "folder") as scratch:
        (scratch / "a").write_text("text")
        raise error
    assert names(tmp_path) == []


def test_a_full_disk_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refuse)
    with (
        pytest.raises(StorageError, match=f"cannot write {tmp_path / 'folder'}"),
        new_folder(tmp_path / "folder") as scratch,
    ):
        (scratch / "a").write_text("text")
    assert names(tmp_path) == []


def test_a_folder_that_is_there_is_kept(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with new_folder(tmp_path / "folder") as scratch:
            (scratch / "a").write_text(text)
    assert (tmp_path / "folder" / "a").read_text() == "first"
    assert names(tmp_path) == ["folder"]


def test_a_process_killed_in_the_middle_leaves_no_folder(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib; from retrieval.files import new_folder\n"
        "with new_folder(pathlib.Path(sys.argv[1])) as scratch:\n"
        "    (scratch / 'a').write_text('half'); print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "folder")], stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "folder").exists()
