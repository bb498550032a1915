"""Files and folders that appear whole or not at all, and are known by their content."""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from retrieval.errors import StorageError


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file under `folder`, by its POSIX path relative to it, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def content_id(*parts: str) -> str:
    """A name for content: 12 hex digits (48 bits) of the SHA-256 of `parts`."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()[:12]


_REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_REFUSED |= {errno.EEXIST, errno.ENOTDIR}
_DATABASE_REFUSED = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}


@contextlib.contextmanager
def storage_errors(place: Path) -> Iterator[None]:
    """Turn what a disk says when it refuses a write to `place` into a `StorageError` that says what to do."""
    try:
        yield
    except Exception as error:  # native writers (faiss, safetensors, Arrow) raise errors of their own kinds
        reason = _refusal(error)
        if reason is None:
            raise
        raise StorageError(
            f"cannot write {place}: {reason}. Nothing that was there has changed; "
            "free some space or fix the permissions, or choose another place with --home"
        ) from error


def _refusal(error: Exception) -> str | None:
    """What the disk said; None if `error` is of another kind."""
    full = "No space left on device" in str(error)
    if isinstance(error, OSError) and error.strerror and (full or error.errno in _REFUSED):
        return error.strerror
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _DATABASE_REFUSED:
        return str(error)
    return "no space left on device" if full else None


def write_text(path: Path, text: str | Iterable[str], mode: int = 0o644) -> None:
    """Write a file whole or not at all: temporary name, fsync, rename. `text` may come in parts.

    Raises:
        StorageError: The disk refused; the file that was there before is unchanged.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            os.fchmod(descriptor, mode)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.writelines([text] if isinstance(text, str) else text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
        _sync(path.parent)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, which is made if need be; wait for whoever holds it."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A scratch folder beside `target` that becomes `target` when the block ends well.

    A `target` that already exists is kept and the scratch is dropped: folders are named by their
    content, so both hold the same.

    Raises:
        StorageError: The disk refused; `target` does not exist, or is what it was before.
    """
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        try:
            yield scratch
            for path in (*scratch.rglob("*"), scratch):
                _sync(path)
            scratch.chmod(0o755)
            try:
                scratch.rename(target)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            _sync(target.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
