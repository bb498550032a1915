"""Documents to passages: cut at headings and blocks, within the encoder's limit."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from markdown_it import MarkdownIt

from retrieval.documents import Document
from retrieval.files import content_id
from retrieval.language import Language, sentences

_NO_TEXT = re.compile(r"<!--.*?-->|!\[[^\]]*\]\([^)]*\)|</?[a-zA-Z][^>]*>|^:::.*$", re.S | re.M)
_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")


@dataclass(frozen=True)
class Passage:
    id: str
    path: str
    article: str
    title: str
    heading: str
    """The headings above it, outermost first, joined by ` > `; without the title."""
    text: str
    language: Language
    start_line: int
    """First line in the file, from 0."""
    end_line: int
    """One past the last line."""

    @property
    def label(self) -> str:
        return f"{self.title} > {self.heading}" if self.heading else self.title

    @property
    def context(self) -> str:
        """What is embedded: the label says what the text is about."""
        return f"{self.label}\n{self.text}"


@dataclass(frozen=True)
class _Block:
    heading: str
    text: str
    start_line: int
    end_line: int


def split(document: Document, count_tokens: Callable[[str], int], max_tokens: int) -> list[Passage]:
    """The passages of a document: whole blocks of one section, at most `max_tokens` each with their label.

    A single block above the limit is cut between sentences; a single sentence above it stays whole.
    """
    passages: list[Passage] = []
    group: list[_Block] = []

    def emit() -> None:
        if group:
            text = "\n".join(block.text for block in group)
            heading, start, end = group[0].heading, group[0].start_line, group[-1].end_line
            name = content_id(document.path, heading, text)
            passages.append(
                Passage(
                    name,
                    document.path,
                    document.article,
                    document.title,
                    heading,
                    text,
                    document.language,
                    start,
                    end,
                )
            )
            group.clear()

    budget = max_tokens - count_tokens(document.title)
    used = 0
    for block in _cut(_blocks(document), count_tokens, budget // 2):
        size = count_tokens(block.text)
        if group and (block.heading != group[0].heading or used + size > budget):
            emit()
        if not group:
            used = count_tokens(block.heading)
        group.append(block)
        used += size
    emit()
    return passages


def _blocks(document: Document) -> Iterable[_Block]:
    """Top-level Markdown blocks with the heading path above each."""
    lines = document.text.split("\n")
    path: list[tuple[int, str]] = []
    tokens = MarkdownIt().enable("table").parse(document.text)
    for position, token in enumerate(tokens):
        if token.type == "heading_open":
            level = int(token.tag[1])
            path = [(above, text) for above, text in path if above < level]
            path.append((level, _plain(tokens[position + 1].content)))
        elif token.level == 0 and token.map and token.nesting >= 0:
            start, end = token.map
            text = _plain("\n".join(lines[start:end]))
            if text:
                titles = [text for _, text in path if text != document.title]
                first = document.first_line
                yield _Block(" > ".join(titles), text, first + start, first + end)


def _plain(markdown: str) -> str:
    text = _LINK.sub(r"\1", _NO_TEXT.sub("", markdown)).replace("**", "").replace("`", "")
    return "\n".join(line.rstrip() for line in text.splitlines() if line.strip())


def _cut(blocks: Iterable[_Block], count_tokens: Callable[[str], int], max_tokens: int) -> Iterable[_Block]:
    for block in blocks:
        if count_tokens(block.text) <= max_tokens:
            yield block
            continue
        piece: list[str] = []
        for sentence in sentences(block.text):
            if piece and count_tokens(" ".join([*piece, sentence])) > max_tokens:
                yield _Block(block.heading, " ".join(piece), block.start_line, block.end_line)
                piece = []
            piece.append(sentence)
        yield _Block(block.heading, " ".join(piece), block.start_line, block.end_line)
