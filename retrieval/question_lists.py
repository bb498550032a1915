"""Lists of questions and answers, or of articles: CSV, XLSX and JSONL, each entry a document."""

import csv
import functools
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from python_calamine import CalamineWorkbook

from retrieval.documents import Document, Parsed, Skipped, Unreadable
from retrieval.readers import check_office, decoded, language, tags_of

QUESTION = ("question", "q", "问题")
TITLE = ("title", "标题")
ANSWER = ("answer", "a", "text", "body", "content", "回答", "答案", "内容")
BODY = ("text", "body", "content", "内容")
ID = ("id", "编号")
CATEGORY = ("category", "topic", "intent", "分类", "主题")
LANGUAGE = ("language", "lang", "语言")
TAGS = ("tags", "tag", "标签")

MAX_CELLS = 10_000_000
_CELL = re.compile(rb'\br="([A-Z]{1,3})(\d{1,7})"')

Row = dict[str, object]
"""The values of a row or line by the names of their columns, in lower case."""


@dataclass(frozen=True)
class _Entry:
    title: str
    text: str
    question: bool
    row: Row


def csv_list(name: str, data: bytes) -> Parsed:
    """A table whose first row names the columns, divided by commas, semicolons or tabs."""
    text = decoded(data)
    header = text.lstrip().partition("\n")[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    return _documents(name, _table(rows, 1))


def xlsx_list(name: str, data: bytes) -> Parsed:
    """A workbook, each sheet of which is a table. Where there are several, paths name the sheet: `faq.xlsx#Fees#12`."""
    check_office(data, "Excel")
    _check_extent(data)
    with CalamineWorkbook.from_filelike(io.BytesIO(data)) as workbook:
        sheets = [(sheet, workbook.get_sheet_by_name(sheet)) for sheet in workbook.sheet_names]
        tables = [(sheet, table.to_python(), table.start[0] + 1) for sheet, table in sheets if table.start]
    if len(tables) == 1:
        return _documents(name, _table(tables[0][1], tables[0][2]))
    documents: list[Document] = []
    skipped: list[Skipped] = []
    for sheet, rows, first in tables:
        try:
            parsed = _documents(f"{name}#{sheet}", _table(rows, first))
        except Unreadable as error:
            skipped.append(Skipped(f"{name}#{sheet}", str(error)))
        else:
            documents += parsed.documents
            skipped += parsed.skipped
    return Parsed(tuple(documents), tuple(skipped))


def jsonl_list(name: str, data: bytes) -> Parsed:
    """Lines with an object each: a question and its answer, or a title and a text; `path` names it, where given."""
    lines = enumerate(decoded(data).split("\n"), 1)
    return _documents(name, ((number, _line_entry(line)) for number, line in lines if line.strip()))


READERS: dict[str, Callable[[str, bytes], Parsed]] = {".csv": csv_list, ".xlsx": xlsx_list, ".jsonl": jsonl_list}


def _check_extent(data: bytes) -> None:
    """Refuse a workbook with a stray cell far away: the reader allocates all cells up to it, or aborts the process.

    Raises:
        Unreadable: A sheet has more than `MAX_CELLS`.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.namelist():
            cells = _CELL.findall(archive.read(member)) if member.startswith("xl/worksheets/") else []
            column = max((column for column, _ in cells), key=lambda letters: (len(letters), letters), default=b"")
            row = max((int(row) for _, row in cells), default=0)
            columns = functools.reduce(lambda number, letter: 26 * number + letter - 64, column, 0)
            if columns * row > MAX_CELLS:
                raise Unreadable(
                    f"a sheet reaches to column {column.decode()} and row {row}; "
                    "delete what stands outside the table, and save it again"
                )


def _documents(name: str, entries: Iterable[tuple[int, _Entry | str]]) -> Parsed:
    """The numbered entries of the list `name`; one that is only a text says why there is none."""
    documents: list[Document] = []
    skipped: list[Skipped] = []
    paths: set[str] = set()
    answers: dict[str, str] = {}
    for number, entry in entries:
        if isinstance(entry, str):
            skipped.append(Skipped(f"{name}:{number}", entry))
            continue
        path = _line(entry.row, ("path",)) or f"{name}#{_line(entry.row, ID) or number}"
        if path in paths:  # an id that translations share, for instance
            path = f"{path}-{number}"
        paths.add(path)
        category = _line(entry.row, CATEGORY)
        given = next((entry.row[key] for key in TAGS if key in entry.row), None)
        if not entry.question:
            article = path
        elif entry.text != entry.title:
            article = answers.setdefault(entry.text, path)
        else:  # no answers: the questions of a category, or of the file, are ways to ask for one thing
            article = f"{name}#{category}" if category else name
        documents.append(
            Document(
                path=path,
                title=entry.title,
                language=language(f"{entry.title}\n{entry.text}", _line(entry.row, LANGUAGE)),
                text=entry.text,
                article=article,
                tags=tuple(dict.fromkeys([*tags_of(given), category] if category else tags_of(given))),
                question=entry.question,
                first_line=None,
            )
        )
    return Parsed(tuple(documents), tuple(skipped))


def _table(rows: Iterable[Sequence[object]], first: int) -> Iterator[tuple[int, _Entry | str]]:
    """The rows below the header, numbered as in a spreadsheet; rows without anything are no entries.

    `first` is the number of the first row.

    Raises:
        Unreadable: The header, the first row that is not empty, names no column of questions.
    """
    header: list[str] = []
    for number, cells in enumerate(rows, first):
        values = [_text(cell) for cell in cells]
        if not any(values):
            continue
        if not header:
            header = [value.lower() for value in values]
            if not {*QUESTION, *TITLE} & {*header}:
                raise Unreadable(
                    f"no column of questions among {', '.join(filter(None, header))}; "
                    f"name one of {', '.join(QUESTION + TITLE)} in the first row, and one of {', '.join(ANSWER)}"
                )
            continue
        row: Row = dict(zip(header, values, strict=False))
        question = _first(row, QUESTION + TITLE)
        if question:
            yield number, _Entry(" ".join(question.split()), _first(row, ANSWER) or question, True, row)
        else:
            yield number, "no question in this row"


def _line_entry(line: str) -> _Entry | str:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    if not isinstance(values, dict):
        return "not an object with question and answer, or title and text"
    row: Row = {key.strip().lower(): value for key, value in values.items()}
    if question := _first(row, QUESTION):
        return _Entry(" ".join(question.split()), _first(row, ANSWER) or question, True, row)
    title, body = _first(row, TITLE), _first(row, BODY)
    if title and body:
        return _Entry(" ".join(title.split()), body, False, row)
    return f"no question or q, nor title with text, body or content; it has {', '.join(row) or 'nothing'}"


def _first(row: Row, names: tuple[str, ...]) -> str:
    """The first of the columns that holds anything."""
    return next((text for name in names if (text := _text(row.get(name)))), "")


def _line(row: Row, names: tuple[str, ...]) -> str:
    return " ".join(_first(row, names).split())


def _text(value: object) -> str:
    """A cell or JSON value as people see it; nothing for lists and objects."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a spreadsheet has no other numbers
    return "" if value is None or isinstance(value, list | dict | bool) else str(value).strip()
