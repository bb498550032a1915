"""One function for each format of articles: bytes to a document."""

import io
import logging
import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

import frontmatter
import mammoth
import pypdf
from bs4 import BeautifulSoup
from bs4.dammit import EncodingDetector
from bs4.element import NavigableString
from markdownify import markdownify

from retrieval.documents import MAX_FILE_BYTES, Document, Unreadable
from retrieval.language import Language, language_of
from retrieval.markup import escaped, headings, mdx_as_markdown, prose, read

# It logs each flaw of a file, with pieces of its content, and then reads it or raises.
logging.getLogger("pypdf").setLevel(logging.CRITICAL)

_FURNITURE = ("nav", "footer", "script", "style", "noscript", "template", "button", "svg", "iframe", "img")
_ANCHORS = ("", "#", "¶", "§", "🔗")
"""Texts of the links that generators put beside a heading."""
_PROGRAM_TITLE = re.compile(r"^Microsoft \w+ - |^untitled|\.\w{2,4}$", re.I)
_LINE_END = re.compile(r"[.!?:;。！？：；…]$")
_LIST_START = re.compile(r"^\s*(?:[-*+•·▪●○■–]|\(?\w{1,3}[.)、）])\s*")
_OLD_OFFICE = b"\xd0\xcf\x11\xe0"
"""How a compound file starts: the Office formats before 2007, and today's where a password protects them."""


def markdown(name: str, data: bytes) -> Document:
    """Markdown, MDX or plain text, with or without YAML front matter."""
    raw = decoded(data)
    try:
        meta, text = frontmatter.parse(raw)
    except Exception as error:  # the parser lets every YAML error of the author through
        raise Unreadable(f"front matter is not YAML: {str(error).splitlines()[0]}") from error
    if not meta:
        text = raw.strip()  # a rule on the first line is no front matter
    first_line = raw[: raw.rindex(text)].count("\n") if text in raw else 0
    if name.lower().endswith(".mdx"):
        text = mdx_as_markdown(text)
    return Document(
        path=name,
        title=_scalar(meta.get("title")) or _title(name, text),
        language=language(text, _scalar(meta.get("language"))),
        text=text,
        article=_scalar(meta.get("id")) or name,
        tags=tuple(dict.fromkeys([*tags_of(meta.get("tags")), *tags_of(meta.get("tag"))])),
        first_line=first_line,
    )


def html(name: str, data: bytes) -> Document:
    """A web page: what `main`, else its only `article`, else its `body` holds, without menus and footers."""
    soup = BeautifulSoup(decoded(data, EncodingDetector.find_declared_encoding(data, is_html=True)), "html.parser")
    articles = soup.find_all("article")
    content = soup.select_one("main, [role=main]") or (articles[0] if len(articles) == 1 else soup.body or soup)
    named = soup.h1 or soup.title
    title = _line(named.get_text()) if named else ""
    for element in content.find_all([*_FURNITURE, "header"] if content is soup.body or content is soup else _FURNITURE):
        element.decompose()
    for link in content.find_all("a"):
        if link.get_text(strip=True) in _ANCHORS:
            link.decompose()
    for summary in content.find_all("summary"):
        summary.name = "p"  # what unfolds below it is another paragraph
    for words in content.find_all(string=True):
        if type(words) is NavigableString and not words.find_parent(["pre", "code", "kbd", "samp"]):
            words.replace_with(escaped(words))  # markdownify would escape within e-mail addresses, too
    text = markdownify(
        str(content),
        heading_style="ATX",
        table_infer_header=True,
        strip=["em", "i"],
        escape_asterisks=False,
        escape_underscores=False,
    )
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    return Document(
        path=name,
        # The page's own heading as Markdown has it, so that passages do not name it twice.
        title=next((heading.text for heading in headings(read(text)) if heading.level == 1), title) or _stem(name),
        language=language(text, str(soup.html.get("lang", "")) if soup.html else ""),
        text=text,
        article=name,
        first_line=None,
    )


def docx(name: str, data: bytes) -> Document:
    """A Word document; its headings are what has a heading style."""
    check_office(data, "Word")
    page = mammoth.convert_to_html(
        io.BytesIO(data),
        style_map="p[style-name='Title'] => h1:fresh",
        convert_image=mammoth.images.img_element(lambda image: {}),
    )
    return html(name, page.value.encode())


def pdf(name: str, data: bytes) -> Document:
    """A PDF with text; lines that only the page's width broke are joined."""
    reader = pypdf.PdfReader(io.BytesIO(data))
    try:
        pages = [escaped(_joined(page.extract_text()).strip()) for page in reader.pages]
    except pypdf.errors.FileNotDecryptedError as error:
        raise Unreadable("needs a password; save a copy without one") from error
    text = "\n\n".join(pages)
    if not text.strip():
        raise Unreadable("no text, only pictures of it; run text recognition (OCR) over it, for instance ocrmypdf")
    starts, start = [], 0
    for page in pages:
        starts.append(start)
        start += len(page) + 2
    title = _line(reader.metadata.title or "") if reader.metadata else ""
    if not title or _PROGRAM_TITLE.search(title):
        title = _stem(name)
    return Document(name, title, language(text), text, name, first_line=None, pages=tuple(starts))


READERS: dict[str, Callable[[str, bytes], Document]] = {
    ".md": markdown,
    ".mdx": markdown,
    ".markdown": markdown,
    ".txt": markdown,
    ".html": html,
    ".htm": html,
    ".docx": docx,
    ".pdf": pdf,
}


def decoded(data: bytes, declared: str | None = None) -> str:
    """`data` as text with `\\n` ending its lines: UTF-8, the encoding it declares, or GB18030.

    Raises:
        Unreadable: It is in none of them.
    """
    for encoding in ("utf-8-sig", declared, "gb18030"):
        try:
            text = data.decode(encoding) if encoding else None
        except (UnicodeError, LookupError):
            continue
        if text is not None and (encoding != "gb18030" or _reads_as_chinese(text)):
            return text.replace("\r\n", "\n").replace("\r", "\n")
    raise Unreadable("text in neither UTF-8 nor GB18030; save it as UTF-8")


def _reads_as_chinese(text: str) -> bool:
    """Whether most characters beyond ASCII stand beside another; accents of Western encodings stand alone."""
    runs = re.findall(r"[^\x00-\x7f]+", text)
    return sum(len(run) for run in runs if len(run) > 1) * 2 >= sum(map(len, runs))


def language(text: str, declared: str = "") -> Language:
    """The language that `declared` (`zh`, `zh-CN`, `en-US`, …) names, else the one that most of `text` is in."""
    match re.split(r"[-_]", declared.strip().lower())[0]:
        case "en":
            return "en"
        case "zh":
            return "zh"
    # Code and links are English in Chinese articles too: with them, one in twelve real ones counted as English.
    return language_of(prose(read(text)))


def tags_of(value: object) -> tuple[str, ...]:
    """The tags in a list, or in a text that commas or semicolons divide."""
    values: Iterable[object] = value if isinstance(value, list) else re.split(r"[,;，；、]", _scalar(value))
    return tuple(tag for tag in map(_scalar, values) if tag)


def check_office(data: bytes, program: str) -> None:
    """Refuse an Office file that has a password, an old format, or an enormous content.

    Raises:
        Unreadable: It is one of these.
    """
    if data.startswith(_OLD_OFFICE):
        raise Unreadable(f"needs a password or is in the format before {program} 2007; save a new copy without one")
    size = sum(member.file_size for member in zipfile.ZipFile(io.BytesIO(data)).infolist())
    if size > MAX_FILE_BYTES:
        raise Unreadable(f"unpacks to {size >> 20} MB, more than {MAX_FILE_BYTES >> 20}; split it")


def _scalar(value: object) -> str:
    """A value of YAML or JSON as one line; nothing for lists and mappings."""
    return "" if value is None or isinstance(value, list | dict | bool) else _line(str(value))


def _line(text: str) -> str:
    return " ".join(text.split())


def _stem(name: str) -> str:
    return PurePosixPath(name).stem.replace("-", " ")


def _title(name: str, text: str) -> str:
    return next((heading.text for heading in headings(read(text))), _stem(name))


def _joined(page: str) -> str:
    """The lines of a page, a line joined to the one before where that was full and ended no sentence."""
    lines = page.splitlines()
    full = 0.6 * max(map(len, lines), default=0)
    text = ""
    for before, line in zip(["", *lines], lines, strict=False):
        goes_on = len(before) >= full and line.strip() and not _LINE_END.search(before.rstrip())
        if not text or not goes_on or _LIST_START.match(line):
            text += "\n" + line
        else:
            apart = (text[-1:] + line[:1]).isascii() and not text.endswith(("-", " "))
            text += " " * apart + line.lstrip()
    return text
