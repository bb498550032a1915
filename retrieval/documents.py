"""The knowledge base as documents: which files there are, and what they hold.

The formats are read in `retrieval/readers.py` and `retrieval/question_lists.py`.
"""

import functools
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from retrieval.errors import InputError
from retrieval.language import Language

SUFFIXES = (".md", ".mdx", ".markdown", ".html", ".htm", ".txt", ".pdf", ".docx", ".csv", ".xlsx", ".jsonl")
MAX_FILE_BYTES = 200 * 2**20
MAX_ARCHIVE_BYTES = 2 * 2**30
"""All files of one archive that would be read, uncompressed."""


@dataclass(frozen=True)
class Document:
    path: str
    """The name that citations and cases use: POSIX path under its source; an entry of a list adds `#` and its id."""
    title: str
    language: Language
    text: str
    """Markdown; what character spans refer to."""
    article: str
    """What translations, and questions with one answer, share: the front matter's `id`, a category; else the path."""
    tags: tuple[str, ...] = ()
    question: bool = False
    """An entry of a question list: the title is a customer's question, the text its answer."""
    first_line: int | None = 0
    """Where `text` starts in its file, from 0: after the front matter. None where its lines are not the file's."""
    pages: tuple[int, ...] = ()
    """PDF: the character of `text` at which each page starts."""


@dataclass(frozen=True)
class Skipped:
    path: str
    """A file, `file:12` for a line or row, or `*.png` for all files of that kind."""
    reason: str


@dataclass(frozen=True)
class Parsed:
    documents: tuple[Document, ...]
    skipped: tuple[Skipped, ...] = ()
    """Rows and lines that hold no entry."""


@dataclass(frozen=True)
class KnowledgeFile:
    name: str
    """POSIX path under its source."""
    read: Callable[[], bytes]
    """Its content; raises `Unreadable`."""


class Unreadable(ValueError):
    """A file cannot be read: one line that says why and, where there is one, the remedy."""


@dataclass(frozen=True)
class _Found:
    file: KnowledgeFile
    size: int
    """Bytes, uncompressed."""
    problem: str = ""


def parse(name: str, data: bytes) -> Parsed:
    """The documents in a file called `name`: one, or one for each entry of a list.

    Raises:
        Unreadable: Nothing can be read from it.
    """
    # The parsers take a third of a second to import, which a search or `--help` shall not wait for.
    from retrieval import question_lists, readers

    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise Unreadable(f"{suffix or 'a file without suffix'} is not read, only {', '.join(SUFFIXES)}")
    try:
        if suffix in question_lists.READERS:
            parsed = question_lists.READERS[suffix](name, data)
        else:
            parsed = Parsed((readers.READERS[suffix](name, data),))
    except Unreadable:
        raise
    except Exception as error:  # damaged files make the parsers raise errors of every kind
        reason = (str(error).splitlines() or [""])[0]
        raise Unreadable(f"damaged, or no {suffix} file: {type(error).__name__}: {reason}".rstrip(": ")) from error
    if not parsed.skipped and not any(document.text.strip() for document in parsed.documents):
        raise Unreadable("no text")
    return parsed


def knowledge_files(
    sources: Sequence[Path], exclude: tuple[str, ...] = ()
) -> tuple[list[KnowledgeFile], list[Skipped]]:
    """The files to read in `sources`, sorted by name, and what is left out; nothing is read or unpacked yet.

    A source is a folder, a file, or a zip archive, whose members count as a folder's files. Hidden files are left
    out. `exclude` are folders or files, relative to their source, to leave out as well.

    Raises:
        InputError: A source does not exist, two hold a file of the same name, or none holds a file to read.
    """
    files: dict[str, KnowledgeFile] = {}
    places: dict[str, Path] = {}
    skipped: list[Skipped] = []
    others: Counter[str] = Counter()
    for source in sources:
        for found in _files_of(source, skipped):
            name, suffix = found.file.name, PurePosixPath(found.file.name).suffix.lower()
            if _excluded(name, exclude):
                continue
            if suffix == ".zip":
                skipped.append(Skipped(name, "an archive within another source is not opened; give it as a source"))
            elif suffix not in SUFFIXES:
                others[suffix] += 1
            elif found.problem:
                skipped.append(Skipped(name, found.problem))
            elif found.size > MAX_FILE_BYTES:
                skipped.append(Skipped(name, f"{found.size >> 20} MB, more than {MAX_FILE_BYTES >> 20}; split it"))
            elif name in files:
                raise InputError(
                    f"{name} stands in both {places[name]} and {source}, and citations could not tell them apart; "
                    "rename one, or give the folder that holds both sources"
                )
            else:
                files[name], places[name] = found.file, source
    for suffix, count in sorted(others.items()):
        files_of_a_kind = "1 file" if count == 1 else f"{count} files"
        skipped.append(Skipped(f"*{suffix}", f"{files_of_a_kind} of a kind that is not read"))
    if not files:
        reasons = "".join(f"\n  {skip.path}: {skip.reason}" for skip in skipped)
        raise InputError(
            f"no file to read in {', '.join(map(str, sources))}; give a folder, file or zip archive "
            f"of {', '.join(SUFFIXES)} with --knowledge{reasons}"
        )
    return [files[name] for name in sorted(files)], skipped


def _excluded(name: str, exclude: tuple[str, ...]) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return hidden or any(name == path or name.startswith(path.rstrip("/") + "/") for path in exclude)


def _files_of(source: Path, skipped: list[Skipped]) -> Iterator[_Found]:
    if source.is_dir():
        yield from _files_in_folder(source, skipped)
    elif not source.is_file():
        raise InputError(f"knowledge {source} does not exist; give a folder, file or zip archive with --knowledge")
    elif source.suffix.lower() == ".zip":
        yield from _files_in_archive(source, skipped)
    else:
        yield _file(source, source.name)


def _files_in_folder(folder: Path, skipped: list[Skipped]) -> Iterator[_Found]:
    """Every file under `folder`; links to folders are followed, each folder once, so that a loop ends."""

    def report(error: OSError) -> None:
        name = Path(error.filename).relative_to(folder).as_posix()
        skipped.append(Skipped(f"{name}/", f"folder cannot be opened: {error.strerror}"))

    visited: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=report):
        real = os.path.realpath(place)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(place, name)
            if path.is_file():
                yield _file(path, path.relative_to(folder).as_posix())


def _file(path: Path, name: str) -> _Found:
    def read() -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise Unreadable(f"cannot be opened: {error.strerror}") from error

    return _Found(KnowledgeFile(name, read), path.stat().st_size)


def _files_in_archive(path: Path, skipped: list[Skipped]) -> Iterator[_Found]:
    """The members of a zip archive. The archive stays open as long as one of them is kept."""
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        skipped.append(Skipped(path.name, f"no zip archive, or a damaged one: {error}"))
        return
    members = {_member_name(member): member for member in archive.infolist() if not member.is_dir()}
    total = sum(member.file_size for name, member in members.items() if PurePosixPath(name).suffix.lower() in SUFFIXES)
    if total > MAX_ARCHIVE_BYTES:
        reason = f"its files unpack to {total >> 20} MB, more than {MAX_ARCHIVE_BYTES >> 20}; split it"
        skipped.append(Skipped(path.name, reason))
        return
    for name, member in members.items():
        locked = "needs a password; give an archive without one" if member.flag_bits & 1 else ""
        if not stat.S_ISLNK(member.external_attr >> 16):
            yield _Found(KnowledgeFile(name, functools.partial(_member, archive, member)), member.file_size, locked)


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(member)  # at most the size that the archive's directory states
    except Exception as error:  # zlib, lzma, struct and zipfile raise errors of their own for a damaged member
        raise Unreadable(f"damaged in the archive: {error}") from error


def _member_name(member: zipfile.ZipInfo) -> str:
    """The member's name; one without the UTF-8 flag is UTF-8 or GB18030 all the same (macOS, Chinese Windows)."""
    name = member.filename
    if not member.flag_bits & 0x800:
        for encoding in ("utf-8", "gb18030"):
            try:
                name = name.encode("cp437").decode(encoding)
                break
            except UnicodeError:
                continue
    return PurePosixPath(name.replace("\\", "/").lstrip("/")).as_posix()
