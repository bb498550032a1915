"""A document without personal data. What finds it in a text is given by the caller: `assistant/redaction.py`."""

import itertools
from collections.abc import Callable
from dataclasses import replace

from retrieval.documents import Document
from retrieval.markup import plain

Redact = Callable[[str], str]


def redacted(document: Document, redact: Redact) -> Document:
    """`document` without personal data, page by page, so that pages still start where they did. Its path stays."""
    starts = [0, *document.pages, len(document.text)]
    parts = [_without_personal_data(document.text[start:end], redact) for start, end in itertools.pairwise(starts)]
    ends = list(itertools.accumulate(map(len, parts)))
    text, pages = "".join(parts), tuple(ends[: len(document.pages)])
    if pages and _without_personal_data(text, redact) != text:  # a number that goes on over a page's end
        text, pages = _without_personal_data(text, redact), ()
    return replace(
        document,
        title=_without_personal_data(document.title, redact),
        text=text,
        article=redact(document.article),
        tags=tuple(redact(tag) for tag in document.tags),
        pages=pages,
    )


def _without_personal_data(markdown: str, redact: Redact) -> str:
    """`markdown` redacted, and again where a number shows only once markup is gone: `4111 **1111** 1111 1111`."""
    markdown = redact(markdown)
    if _is_clean(markdown, redact):
        return markdown
    lines = (line if _is_clean(line, redact) else _bare(line, redact) for line in markdown.splitlines(keepends=True))
    markdown = "".join(lines)
    return markdown if _is_clean(markdown, redact) else redact(plain(markdown))


def _is_clean(markdown: str, redact: Redact) -> bool:
    shown = plain(markdown)
    return redact(shown) == shown


def _bare(line: str, redact: Redact) -> str:
    """A line of Markdown as plain text, redacted; it stays a heading, list item or quote, if it is one."""
    text = line.lstrip(" \t>#")
    text = text[2:] if text[:2] in ("- ", "* ", "+ ") else text
    mark, end = line.removesuffix(text), text[len(text.rstrip()) :]
    return f"{mark}{redact(plain(text))}{end}"
