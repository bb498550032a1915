"""Support logs in: files in any of the formats that are read, one record at a time, whatever their size.

    .jsonl, .json   a conversation a line, or a list of them: see formats.py
    .csv, .tsv      exports of ticket systems, with a column mapping beside them: see tickets.py
    a folder        its log files and those of the folders in it, sorted
                    with a dataset_info.json, the data sets of LLaMA-Factory: dataset_info.py

Each of these may be compressed (.gz). Which format a record has shows in its fields. Every record becomes either a
`Conversation` or a `BadLine` with the reason, in order, and the `rows` of both add up to the records in the files. What
a folder holds beside logs is a `BadLine` without rows, unless it is hidden.
"""

import gzip
import zlib
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from finetune.logs import dataset_info, records
from finetune.logs.columns import Columns, is_mapping, mapping_beside, read_columns
from finetune.logs.conversations import BadLine, Conversation
from finetune.logs.formats import conversation
from finetune.logs.records import Record
from finetune.logs.tables import table
from finetune.logs.tickets import tickets
from retrieval.errors import InputError

__all__ = ["BadLine", "Columns", "Conversation", "log_files", "read_columns", "read_logs"]

_JSON = (".jsonl", ".json")
_TABLES = (".csv", ".tsv")
SUFFIXES = tuple(f"{suffix}{packed}" for packed in ("", ".gz") for suffix in _JSON + _TABLES)
_READ = f"{', '.join(_JSON + _TABLES)} are read, each also as .gz"


@dataclass(frozen=True)
class _Source:
    path: Path
    entry: dataset_info.Entry | None = None
    """What a `dataset_info.json` says of the file."""
    beside: Path | None = None
    """That `dataset_info.json`, or the column mapping of a ticket export."""
    columns: Columns | None = None


def read_logs(
    paths: Iterable[Path], columns: Columns | None = None, only: Container[Path] | None = None
) -> Iterator[Conversation | BadLine]:
    """Every record of every file, as a conversation or as the reason why it is none.

    `columns` are those of the CSV files; without them each has a mapping beside it, or the usual names. Of `log_files`
    those in `only` are read, if it is given, and those whose mapping or `dataset_info.json` is in it.

    Raises:
        InputError: A path does not exist, cannot be read, or is of no format that is read. All paths are looked at
            before the first is read.
    """
    sources = list(_sources(paths, columns))
    for source in sources:
        if isinstance(source, BadLine):
            yield source
        elif only is None or source.path in only or source.beside in only:
            yield from _read(source)


def log_files(paths: Iterable[Path]) -> list[Path]:
    """The files that `read_logs` reads, column mappings and `dataset_info.json` among them, in its order.

    Raises:
        InputError: A path does not exist, a folder holds no log, or a column mapping is wrong.
    """
    files: dict[Path, None] = {}
    for source in _sources(paths):
        if isinstance(source, _Source):
            files |= dict.fromkeys(file for file in (source.beside, source.path) if file)
    return list(files)


def _sources(paths: Iterable[Path], columns: Columns | None = None) -> Iterator[_Source | BadLine]:
    """The files that `paths` name, and what is not read of folders and of the data sets of LLaMA-Factory."""
    for path in paths:
        folder = path.parent if path.name == dataset_info.NAME else path
        if (folder / dataset_info.NAME).is_file() and (path.is_dir() or folder != path):
            yield from _datasets(folder)
        elif path.is_dir():
            found = list(_held(path, columns))
            if not any(isinstance(source, _Source) for source in found):
                raise InputError(f"log folder {path} holds no log; {_READ}")
            yield from found
        elif not path.exists():
            raise InputError(f"log file {path} does not exist")
        elif not path.name.lower().endswith(SUFFIXES):
            raise InputError(f"log file {path} is of no kind that is read; {_READ}")
        else:
            yield _source(path, columns)


def _datasets(folder: Path) -> Iterator[_Source | BadLine]:
    found = dataset_info.datasets(folder, SUFFIXES)
    yield from (_Source(file, entry, folder / dataset_info.NAME) for file, entry in found.files)
    yield from found.skipped


def _held(folder: Path, columns: Columns | None) -> Iterator[_Source | BadLine]:
    """The log files of a folder and of those in it, and what else is there, by name."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or is_mapping(path):
            continue
        if path.is_dir() and not path.is_symlink():  # a link may lead back
            yield from _datasets(path) if (path / dataset_info.NAME).is_file() else _held(path, columns)
        elif path.is_file() and path.name.lower().endswith(SUFFIXES):
            yield _source(path, columns)
        else:
            reason = "a link to a folder; name the folder itself" if path.is_dir() else f"not read; {_READ}"
            yield BadLine(str(path), reason, "", 0, "file")


def _source(path: Path, columns: Columns | None) -> _Source:
    mapping = mapping_beside(path) if _is_table(path) and not columns else None
    return _Source(path, None, mapping, columns or (read_columns(mapping) if mapping else None))


def _is_table(path: Path) -> bool:
    return path.name.lower().removesuffix(".gz").endswith(_TABLES)


def _read(source: _Source) -> Iterator[Conversation | BadLine]:
    path, entry = source.path, source.entry
    try:
        with _opened(path) as file:
            if _is_table(path) and not entry:
                yield from tickets(table(file, str(path)), source.columns, str(path))
                return
            found = table(file, str(path)).rows if _is_table(path) else _records(file, path)
            for record in found:
                if isinstance(record, Record) and entry:
                    record = dataset_info.aligned(record, entry)
                yield record if isinstance(record, BadLine) else conversation(record)
    except (OSError, EOFError, zlib.error) as error:
        # A damaged .gz raises all three.
        raise InputError(f"log file {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _opened(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.name.lower().endswith(".gz") else path.open("rb")


def _records(file: IO[bytes], path: Path) -> Iterator[Record | BadLine]:
    name = path.name.lower().removesuffix(".gz")
    listed = records.starts_a_list(file.read(4096))
    file.seek(0)
    return records.items(file, str(path)) if listed or name.endswith(".json") else records.lines(file, str(path))
