"""Markdown to plain text, each character of which knows where it stood in the source.

Only inline markup is read here, with one pass of a regular expression, since no parser reports character
positions inside a block; headings come from markdown-it. Indented code is read as text: in real help centres
indentation comes from tabs, steps and lists, and code stands in fences.
"""

import bisect
import html
import itertools
import re
import textwrap
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from markdown_it import MarkdownIt

_TARGET = r"\((?:[^()\n]|\([^()\n]*\))*+\)"
_BRACES = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*+\})*+\}"
_ATTRIBUTES = rf"""(?:\s(?:[^<>"'{{}}]|"[^"]*"|'[^']*'|{_BRACES})*+)?"""
_FENCE = (
    r"(?P<open>^[ \t>]*(?P<ticks>`{3,}|~{3,})[^`\n]*(?:\n|\Z))(?P<body>.*?)(?P<shut>^[ \t>]*(?P=ticks)[`~]*[ \t]*$|\Z)"
)
_DEFINITION = r"^ {0,3}\[(?P<defined>[^\]\n]+)\]:[ \t]*\S[^\n]*$"
_LINE_RULES = {
    "fence": _FENCE,
    "definition": _DEFINITION,
    "container": r"^[ \t]*(?::::+[ \t]*\w*|@tab\b)[ \t]*",
    "structure": r"^[ \t]*(?:(?:>[ \t]?)+(?:#{1,6}[ \t]+)?|#{1,6}[ \t]+|:[ ]{3})",
}
_INLINE_RULES = {
    "code": r"(?P<tick>`+)(?!`)(?:(?!\n[ \t]*\n).)+?(?<!`)(?P=tick)(?!`)",
    # Neither goes past another beginning: searching for the end from each of many would take quadratic time.
    "comment": r"<!--(?:(?!<!--).)*?-->|\{/\*.*?\*/\}",
    "program": r"<(?P<hidden>script|style)\b(?:(?!<(?P=hidden)).)*?</(?P=hidden)\s*>",
    "image": rf"!\[(?:[^\[\]]|\[[^\[\]]*\])*\](?:{_TARGET}|\[[^\]\n]*\])",
    "tag": rf"</?(?P<name>[A-Za-z][A-Za-z0-9.-]*){_ATTRIBUTES}/?>|</?>",  # <CARD_1> is none
    "address": r"<(?:(?:https?|mailto|tel):[^<>\s]+|[\w.+-]+@[\w.-]+)>",
    "alert": r"\[![A-Z]+\]",
    "bracket": r"\[",
    "link": rf"\](?:{_TARGET}|\[(?P<label>[^\]\n]*)\])?",
    "anchor": r"\{#[\w-]+\}[ \t]*$",
    "bold": r"\*\*+",
    "entity": r"&(?:[A-Za-z]\w+|#\d+|#[xX][\da-fA-F]+);",
    "escape": r"\\(?:[!-/:-@\[-`{-~]|$)",
}


def _alternatives(rules: dict[str, str]) -> str:
    return "|".join(f"(?P<{kind}>{pattern})" for kind, pattern in rules.items())


# The character class spares the inline rules, one after the other, at each letter.
_MARKUP = re.compile(
    rf"{_alternatives(_LINE_RULES)}|(?=[`<{{!\[\]*&\\])(?:{_alternatives(_INLINE_RULES)})", re.M | re.S
)
_IMPORT = r"""import\s[^'"\n]*(?:\n[^'"\n]+)*['"][^'"\n]*['"];?[ \t]*(?:\n|\Z)"""
_EXPORT = r"export\s[^\n]*(?:\n[^\n]+|\n\s*\n(?=[ \t})\]])[^\n]*)*"
_MODULE = re.compile(rf"{_FENCE}|(?:\A|(?<=\n\n))(?P<module>(?:{_IMPORT}|{_EXPORT})+)", re.M | re.S)
_FENCED = re.compile(_FENCE, re.M | re.S)
_NO_PROSE = re.compile(r"(`+)[^`\n]+\1|(?:https?:)?//\S+")
_SPECIAL = re.compile(r"[\\`*<&\[\]{]|^[ \t]*[#>:~]", re.M)
_DEFINED = re.compile(_DEFINITION, re.M)
_BLOCKS = MarkdownIt().disable(["inline", "code", "html_block", "reference"])
_TITLE = re.compile(r"""\stitle=(["'])(.*?)\1""", re.S)
_WITHIN_WORDS = frozenset("a abbr b code em font i kbd mark s small span strong sub sup u wbr".split())

_CODE_NEWLINE, _STRUCTURE = "\0", "\1"
_BLANK = " \t\r\f\v\u00a0\u200b\u3000\ufeff\0-*_="
"""What a line without text is made of: blanks, and the rules that people draw."""
_SPACE = frozenset(" \t\r\f\v\u00a0\u3000\n" + _CODE_NEWLINE + _STRUCTURE)


@dataclass(frozen=True)
class Plain:
    """A Markdown text without its inline markup."""

    source: str
    markdown: str
    """Headings, lists, tables, quotes and code are still marked in it; links, images, tags and bold no longer."""
    marked: str
    """The same, with each newline of a code block, and each character that only marks structure, replaced."""
    positions: "array[int]"
    """Where each character of `markdown` stands in `source`, and the length of `source`."""

    def text(self, start: int, end: int) -> str:
        """The plain text of a span of `markdown`: no blank lines outside code, code as it was."""
        lines = self.marked[start:end].replace(_STRUCTURE, "").split("\n")
        kept = (line.lstrip(_CODE_NEWLINE).rstrip(" \t\r\u00a0\0") for line in lines if line.strip(_BLANK))
        return textwrap.dedent("\n".join(kept).replace(_CODE_NEWLINE, "\n")).strip("\n")

    def source_span(self, start: int, end: int) -> tuple[int, int]:
        """Where the text of a span of `markdown`, which must hold some, stands in `source`.

        The inline markup that touches the text on its first and last line is part of it.
        """
        begin = start
        while self.marked[start] in _SPACE:
            start += 1
        while self.marked[end - 1] in _SPACE:
            end -= 1
        while start > begin and self.markdown[start - 1] != "\n" and self.marked[start - 1] in _SPACE:
            start -= 1  # indentation, and marks such as backticks
        while self.marked[end : end + 1] == _STRUCTURE and self.markdown[end] != "\n":
            end += 1
        before = self.source[self.positions[start - 1] + 1 if start else 0 : self.positions[start]]
        after = self.source[self.positions[end - 1] + 1 : self.positions[end]]
        first = self.positions[start] - len(before.rpartition("\n")[2].lstrip())
        return first, self.positions[end - 1] + 1 + len(after.partition("\n")[0].rstrip())


def read(source: str) -> Plain:
    """`source` without links' targets, images, comments, tags, bold and escapes; entities become characters."""
    markdown, marked, positions = [], [], array("Q")
    last = 0
    for edit in [*_edits(source), _Edit(len(source), len(source))]:
        markdown.append(source[last : edit.start])
        marked.append(source[last : edit.start])
        positions.extend(range(last, edit.start))
        markdown.append(edit.markdown)
        marked.append(edit.marked)
        if len(edit.markdown) == edit.end - edit.start:
            positions.extend(range(edit.start, edit.end))
        else:
            positions.extend([edit.start] * len(edit.markdown))
        last = edit.end
    positions.append(len(source))
    return Plain(source, "".join(markdown), "".join(marked), positions)


def plain(source: str, start: int = 0, end: int | None = None) -> str:
    """The plain text of `source[start:end]`, with the markup of the whole `source` in mind."""
    text = read(source)
    first = bisect.bisect_left(text.positions, start)
    return text.text(first, bisect.bisect_left(text.positions, len(source) if end is None else end))


def prose(text: Plain) -> str:
    """What is written in a human language: no code and no addresses."""
    return _NO_PROSE.sub(" ", _FENCED.sub("", text.markdown))


def escaped(text: str) -> str:
    """Markdown that reads as `text` letter for letter, apart from lists and tables that it may hold."""
    return _SPECIAL.sub(lambda match: match[0][:-1] + "\\" + match[0][-1], text)


def mdx_as_markdown(source: str) -> str:
    """MDX without its imports and exports, what stands in components moved to the left; lines keep their numbers.

    Markdown takes for code what components indent.
    """
    source = _MODULE.sub(lambda match: "\n" * match[0].count("\n") if match["module"] else match[0], source)
    within, last = [""], 0
    for tag in _MARKUP.finditer(source):
        if tag.lastgroup != "tag" or not tag["name"] or not tag["name"][0].isupper() or tag[0].endswith("/>"):
            continue
        if tag[0].startswith("</") and len(within) > 1:
            content = textwrap.dedent(within.pop() + source[last : tag.start()])
            within[-1] += content + tag[0]
        else:
            within[-1] += source[last : tag.end()]
            within.append("")
        last = tag.end()
    return "".join(within) + source[last:]


@dataclass(frozen=True)
class Heading:
    level: int
    """1 to 6."""
    text: str
    start: int
    """First character of its first line in `Plain.markdown`."""
    end: int
    """First character of the line after it."""


def headings(text: Plain) -> Iterator[Heading]:
    """The headings of a text in order, without those inside lists and quotes."""
    # Fences that tabs indent are no fences to markdown-it, and comments within them would be headings.
    outline = _FENCED.sub(lambda fence: re.sub(r"[^\n]", " ", fence[0]), text.markdown.replace("\r", " "))
    lines = [0, *itertools.accumulate(len(line) + 1 for line in outline.split("\n"))]
    for token in _BLOCKS.parse(outline):
        if token.type != "heading_open" or token.level or not token.map:
            continue
        first, after = token.map
        if token.markup in "=-" and after - first > 2:
            continue  # a paragraph with a rule drawn below it
        title = re.sub(r"[ \t]+#+$", "", text.text(lines[first], lines[after])).strip()
        if title:
            yield Heading(int(token.tag[1]), title, lines[first], lines[after])


@dataclass(frozen=True)
class _Edit:
    start: int
    end: int
    markdown: str = ""
    """What stands there instead in `Plain.markdown`."""
    marked: str = ""
    """The same for `Plain.marked`."""


def _edits(source: str) -> list[_Edit]:
    """What becomes of each piece of markup, in order of the source."""
    edits: list[_Edit] = []
    opened: list[int] = []
    defined = {label.lower() for label in _DEFINED.findall(source)}

    def structure(start: int, end: int) -> None:
        edits.append(_Edit(start, end, source[start:end], _STRUCTURE * (end - start)))

    for match in _MARKUP.finditer(source):
        start, end = match.span()
        match match.lastgroup:
            case "fence":
                body = match["body"]
                structure(*match.span("open"))
                edits.append(_Edit(*match.span("body"), body, body.replace("\n", _CODE_NEWLINE)))
                structure(*match.span("shut"))
            case "code":
                ticks = len(match["tick"])
                structure(start, start + ticks)
                structure(end - ticks, end)
            case "structure":
                structure(start, end)
            case "tag":
                edits += _tag(match)
            case "address":
                edits += [_Edit(start, start + 1), _Edit(end - 1, end)]
            case "bracket":
                opened.append(start)
            case "link":
                bracket = opened.pop() if opened else None
                leads = end > start + 1 and (match["label"] is None or match["label"].lower() in defined)
                if bracket is not None and leads:
                    edits += [_Edit(bracket, bracket + 1), _Edit(start, end)]
            case "entity":
                character = html.unescape(match[0]).replace("\u00a0", " ")
                if character != match[0]:
                    edits.append(_Edit(start, end, character, character))
            case "escape":
                edits.append(_Edit(start, start + 1))
            case _:
                edits.append(_Edit(start, end))
    return sorted(edits, key=lambda edit: edit.start)


def _tag(tag: re.Match[str]) -> list[_Edit]:
    """A tag leaves nothing, or a blank where it kept words apart; a component's title is text that readers see."""
    source, (start, end), name = tag.string, tag.span(), tag["name"] or ""
    title = _TITLE.search(tag[0]) if name[:1].isupper() else None
    if title:
        indented = start - (source.rfind("\n", 0, start) + 1)
        begin = start - indented if source[start - indented : start].isspace() else start
        return [_Edit(begin, start + title.start(2)), _Edit(start + title.end(2), end, "\n", "\n")]
    apart = name[:1].islower() and name.lower() not in _WITHIN_WORDS
    between = source[start - 1 : start].strip() and source[end : end + 1].strip()
    return [_Edit(start, end, " ", " ") if apart and between else _Edit(start, end)]
