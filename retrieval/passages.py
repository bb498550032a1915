"""Documents to passages: cut at headings, and a long section between its blocks, within the encoder's limit."""

import bisect
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from retrieval.documents import Document
from retrieval.files import content_id
from retrieval.language import Language
from retrieval.markup import Plain, headings, read


@dataclass(frozen=True)
class Passage:
    id: str
    """Of its path, heading and text, so that it stays when other parts of the document change."""
    path: str
    article: str
    title: str
    heading: str
    """The headings above it, outermost first, joined by ` > `; without the title."""
    text: str
    """Plain text: for the prompt, the embedding and quotes."""
    language: Language
    start: int
    """First character in `Document.text`."""
    end: int
    """One past the last."""
    place: str
    """For people: `line 12`, `page 3`, or nothing where the path says it all."""
    tags: tuple[str, ...] = ()
    question: bool = False
    """The title is a customer's question and the text its answer."""

    @property
    def label(self) -> str:
        return f"{self.title} > {self.heading}" if self.heading else self.title

    @property
    def context(self) -> str:
        """What is embedded: the label says what the text is about. A question without an answer stands once."""
        return self.label if self.text == self.label else f"{self.label}\n{self.text}"


@dataclass(frozen=True)
class _Section:
    heading: str
    start: int
    """In `Plain.markdown`."""
    end: int


def split(document: Document, count_tokens: Callable[[str], int], max_tokens: int) -> list[Passage]:
    """The passages of a document, in order: each a section or a part of one, with its label within `max_tokens`.

    A longer section is cut between blocks, then list items or table rows, then sentences, then words. A longer
    title or heading is cut short, so that half of the tokens at least are left to the text.
    """
    plain = read(document.text)
    title = _shortened(document.title, count_tokens, max_tokens // 4)
    sections = [_Section("", 0, len(plain.markdown))] if document.question else list(_sections(plain, document.title))
    passages: list[Passage] = []
    seen: Counter[str] = Counter()
    for section in sections:
        heading = _shortened(section.heading, count_tokens, max_tokens // 4)
        label = f"{title} > {heading}" if heading else title
        for start, end in _cut(plain, section, label, count_tokens, max_tokens):
            text = plain.text(start, end)
            if not text:  # the answer to a question is a picture, or a line
                continue
            name = content_id(document.path, heading, text)
            seen[name] += 1
            first, last = plain.source_span(start, end)
            passages.append(
                Passage(
                    id=name if seen[name] == 1 else f"{name}-{seen[name]}",
                    path=document.path,
                    article=document.article,
                    title=title,
                    heading=heading,
                    text=text,
                    language=document.language,
                    start=first,
                    end=last,
                    place=_place(document, first),
                    tags=document.tags,
                    question=document.question,
                )
            )
    return passages


def _sections(plain: Plain, title: str) -> Iterator[_Section]:
    """The texts between headings; the headings themselves, if there is no text at all."""
    above: list[tuple[int, str]] = []
    start, found = 0, False
    ends = [*headings(plain), None]
    for heading in ends:
        end = heading.start if heading else len(plain.markdown)
        if plain.text(start, end):
            found = True
            yield _Section(" > ".join(text for _, text in above if text != title), start, end)
        if heading:
            above = [(level, text) for level, text in above if level < heading.level]
            above.append((heading.level, heading.text))
            start = heading.end
    if not found and plain.text(0, len(plain.markdown)):
        yield _Section("", 0, len(plain.markdown))


def _cut(
    plain: Plain, section: _Section, label: str, count_tokens: Callable[[str], int], max_tokens: int
) -> Iterator[tuple[int, int]]:
    """Spans of `plain.markdown` that hold all text of the section, none above the limit with the label."""

    taken = count_tokens(f"{label}\n")

    def size(text: str) -> int:
        return count_tokens(f"{label}\n{text}") - taken

    # The splitter takes a text of as many bytes as it may have tokens to fit, so the label counts on both sides.
    room = max_tokens - taken
    if size(plain.text(section.start, section.end)) <= room:
        yield section.start, section.end
        return
    from semantic_text_splitter import MarkdownSplitter

    markdown = plain.markdown[section.start : section.end]
    for offset, chunk in MarkdownSplitter.from_callback(size, room).chunk_indices(markdown):
        start = section.start + offset
        if plain.text(start, start + len(chunk)):
            yield start, start + len(chunk)


def _shortened(text: str, count_tokens: Callable[[str], int], max_tokens: int) -> str:
    if count_tokens(text) <= max_tokens:
        return text
    from semantic_text_splitter import TextSplitter

    return TextSplitter.from_callback(count_tokens, max(max_tokens - 1, 1)).chunks(text)[0] + "…"


def _place(document: Document, start: int) -> str:
    if document.pages:
        return f"page {bisect.bisect_right(document.pages, start)}"
    if document.question or document.first_line is None:
        return ""
    return f"line {document.first_line + document.text.count(chr(10), 0, start) + 1}"
