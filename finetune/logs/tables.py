"""Rows of CSV files of any size: UTF-8 or GB18030, divided by commas, semicolons or tabs."""

import codecs
import csv
import io
import json
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO

from finetune.logs.conversations import BadLine
from finetune.logs.records import LONGEST, Record, shown
from finetune.logs.shape import KEPT, start
from retrieval.errors import InputError

_DELIMITERS = ",;\t"
_SAMPLE = 1 << 17
"""Bytes that tell the encoding."""
_BEYOND = re.compile(rb"[\x80-\xff]")
_WRONG = re.compile("[\udc80-\udcff]")
_PAIRS = re.compile(rb"[\x80-\xff]{2,}")


@dataclass(frozen=True)
class Table:
    header: tuple[str, ...]
    """Names of the columns, in lower case; empty for an empty file."""
    rows: Iterator[Record | BadLine]
    """Each row that is not empty, its value a dict from names to cells."""


def table(file: IO[bytes], name: str) -> Table:
    """The table in a CSV file.

    The delimiter is what the header has most of: `csv.Sniffer` looks at texts of tickets, too, and is often wrong.

    Raises:
        InputError: It is neither UTF-8 nor GB18030, or its first row cannot be read.
    """
    encoding = _encoding(file, name)
    lines = _Lines(file, encoding)
    for first in lines:
        if first.strip():
            break
    else:
        return Table((), iter(()))
    lines.give_back(1)
    delimiter = max(_DELIMITERS, key=first.count)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = tuple(cell.strip().lower() for cell in next(rows))
    except csv.Error as error:
        raise InputError(
            f"{name}:{lines.number}: the first row, which names the columns, is broken: {error}"
        ) from error
    while header and not header[-1]:
        header = header[:-1]
    return Table(header, _rows(rows, lines, header, delimiter, name, encoding))


def _rows(
    rows: Iterator[list[str]], lines: "_Lines", header: tuple[str, ...], delimiter: str, name: str, encoding: str
) -> Iterator[Record | BadLine]:
    while True:
        lines.taken.clear()
        place = f"{name}:{lines.number + 1}"
        reason = ""
        cells: list[str] = []
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            reason = f"not CSV: {error}; is a quote missing, or one within a text not doubled?"
        while len(cells) > len(header) and not cells[-1].strip():
            cells.pop()
        if not reason and not any(cell.strip() for cell in cells):
            continue
        if not reason and len(cells) != len(header):
            reason = f"{len(cells)} cells where the header names {len(header)}; is a quote or a delimiter missing?"
        if reason:
            # A quote without its other half takes all lines up to the next one into a cell: read them again.
            lines.give_back(len(lines.taken) - 1)
        text = "".join(lines.taken)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            reason = f"not {encoding}: byte 0x{ord(text[error.start]) & 0xFF:02x}; save the file as UTF-8"
        if reason:
            cells = start(text).rstrip("\r\n").split(delimiter)
            yield BadLine(place, reason, shown(json.dumps(cells, ensure_ascii=False)))
        else:
            row = dict(zip(header, cells, strict=True))
            yield Record(place, row, written(row))


def written(row: Mapping[str, str]) -> str:
    """The start of a row as JSON: a line does not say which of its cells are text."""
    return shown(json.dumps({name: cell[: KEPT + 1] for name, cell in row.items()}, ensure_ascii=False))


class _Lines:
    """The lines of a file, some of which can be given back."""

    def __init__(self, file: IO[bytes], encoding: str) -> None:
        # Bytes that are not of the encoding become lone surrogates, so that only their rows are bad.
        self._file = io.TextIOWrapper(file, encoding, errors="surrogateescape", newline="")
        self._again: deque[str] = deque()
        self.taken: list[str] = []
        """Lines read since this was cleared."""
        self.number = 0
        """Of the line that was read last."""

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._file.readline(LONGEST)
        if not line:
            raise StopIteration
        if len(line) == LONGEST and not line.endswith(("\n", "\r")):
            while (rest := self._file.readline(LONGEST)) and not rest.endswith(("\n", "\r")):
                pass
        self.number += 1
        self.taken.append(line)
        return line

    def give_back(self, count: int) -> None:
        """Have the last `count` lines read again."""
        for _ in range(count):
            self._again.appendleft(self.taken.pop())
            self.number -= 1


def _encoding(file: IO[bytes], name: str) -> str:
    """UTF-8, if at most a quarter of the bytes beyond ASCII are wrong in it; else GB18030, where they come in pairs.

    What tells is the first lines that are not ASCII, wherever in the file they are.

    Raises:
        InputError: It is neither; accents of Western encodings stand alone.
    """
    if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise InputError(f"{name} is UTF-16; save it as UTF-8, in Excel as 'CSV UTF-8'")
    file.seek(0)
    sample = b""
    while len(sample) < _SAMPLE and (line := file.readline(_SAMPLE)):
        sample += b"" if line.isascii() else line
    file.seek(0)
    beyond = len(_BEYOND.findall(sample))
    wrong = len(_WRONG.findall(sample.decode("utf-8", "surrogateescape")))
    if wrong * 4 <= beyond:
        return "utf-8-sig"
    if sum(map(len, _PAIRS.findall(sample))) >= 0.9 * beyond:
        return "gb18030"
    raise InputError(f"{name} is in neither UTF-8 nor GB18030; save it as UTF-8, in Excel as 'CSV UTF-8'")
