"""The knowledge base as documents: one Markdown or text file, one document."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import frontmatter
from markdown_it import MarkdownIt

from retrieval.errors import InputError
from retrieval.language import Language, language_of

SUFFIXES = (".md", ".mdx", ".markdown", ".txt")


@dataclass(frozen=True)
class Document:
    path: str
    """POSIX path under the knowledge folder; the name that citations and cases use."""
    title: str
    language: Language
    text: str
    """The file's text without front matter."""
    article: str
    """The front matter's `id`, which translations share; else the path."""
    first_line: int = 0
    """Where `text` starts in the file, from 0: after the front matter."""


@dataclass(frozen=True)
class Skipped:
    path: str
    reason: str


def read_documents(folder: Path, exclude: tuple[str, ...] = ()) -> tuple[list[Document], list[Skipped]]:
    """Every document under `folder`, sorted by path, and the files that could not be read.

    `exclude` are folders or files relative to `folder` to leave out.

    Raises:
        InputError: `folder` does not exist, or holds no document that can be read.
    """
    if not folder.is_dir():
        raise InputError(f"knowledge folder {folder} does not exist; give one with --knowledge DIR")
    documents, skipped = [], []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or path.suffix.lower() not in SUFFIXES or _excluded(name, exclude):
            continue
        try:
            document = _read(path, name)
        except (OSError, UnicodeDecodeError, ValueError) as error:
            skipped.append(Skipped(name, f"{type(error).__name__}: {error}"))
            continue
        if document.text.strip():
            documents.append(document)
        else:
            skipped.append(Skipped(name, "no text"))
    if not documents:
        reasons = "".join(f"\n  {skip.path}: {skip.reason}" for skip in skipped)
        raise InputError(
            f"knowledge folder {folder} holds no readable document ({', '.join(SUFFIXES)}); "
            f"put articles there or give another folder with --knowledge DIR{reasons}"
        )
    return documents, skipped


def _excluded(name: str, exclude: tuple[str, ...]) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return hidden or any(name == path or name.startswith(path.rstrip("/") + "/") for path in exclude)


def _read(path: Path, name: str) -> Document:
    raw = path.read_text(encoding="utf-8-sig")
    try:
        meta, text = frontmatter.parse(raw)
    except Exception as error:  # the parser lets every YAML error of the author through
        raise ValueError(f"front matter is not YAML: {str(error).splitlines()[0]}") from error
    title = str(meta.get("title") or _first_heading(text) or path.stem.replace("-", " "))
    declared = meta.get("language")
    language: Language = declared if declared in ("en", "zh") else language_of(text)
    first_line = raw[: raw.rindex(text)].count("\n") if text in raw else 0
    return Document(name, title, language, text, str(meta.get("id") or name), first_line)


def _first_heading(text: str) -> str:
    tokens = MarkdownIt().parse(text)
    for token, inline in itertools.pairwise(tokens):
        if token.type == "heading_open":
            return inline.content
    return ""
