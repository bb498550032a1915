"""What each file of the knowledge base holds: articles without personal data, cut into passages.

It is kept in a cache by the file's name and content and by all that takes part in reading it, so that a file that did
not change costs its hash. Only what was redacted gets there.
"""

import hashlib
import json
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FunctionType

from pydantic import TypeAdapter
from tqdm import tqdm

from retrieval.cache import Cache
from retrieval.documents import Document, KnowledgeFile, Skipped, Unreadable, parse
from retrieval.encoder import Encoder
from retrieval.passages import Passage, split
from retrieval.redaction import Redact, redacted


@dataclass(frozen=True)
class Article:
    """A document without personal data, and its passages, at least one."""

    document: Document
    passages: tuple[Passage, ...]
    tokens: int
    """Of the passages' texts, without their labels."""


@dataclass(frozen=True)
class Contents:
    articles: tuple[Article, ...]
    skipped: tuple[Skipped, ...]


_CONTENTS = TypeAdapter(Contents)
_HASH_BYTES = 32


def read_contents(
    files: Sequence[KnowledgeFile],
    redact: Redact,
    encoder: Encoder,
    max_tokens: int,
    cache: Cache,
    progress: bool = False,
) -> Contents:
    """The articles of `files` in passages of at most `max_tokens`, and what could not be read.

    Of several documents with one path the first is taken. `cache` gives what it knows and keeps what it does not.
    """
    reader = [_code(redact), encoder.fingerprint, max_tokens]
    articles: dict[str, Article] = {}
    skipped: list[Skipped] = []
    for file in tqdm(files, desc="reading", unit="file", disable=not progress):
        try:
            data = file.read()
        except Unreadable as error:
            skipped.append(Skipped(file.name, str(error)))
            continue
        key = _hash(json.dumps([*reader, file.name, _hash(data).hex()]).encode())
        contents = _kept(cache, key)
        if contents is None:
            contents = _contents(file.name, data, redact, encoder, max_tokens)
            value = _CONTENTS.dump_json(contents)
            cache.keep({key: _hash(value) + value})
        skipped += contents.skipped
        for article in contents.articles:
            if articles.setdefault(article.document.path, article) is not article:
                taken = "another document has this path already; give it another"
                skipped.append(Skipped(article.document.path, taken))
    return Contents(tuple(articles.values()), tuple(skipped))


def _contents(name: str, data: bytes, redact: Redact, encoder: Encoder, max_tokens: int) -> Contents:
    """What the file called `name` holds; nothing in it, skipped ones included, says personal data."""

    def said(path: str, reason: str) -> Skipped:
        return Skipped(redact(_writable(path)), redact(_writable(reason)))

    try:
        parsed = parse(name, data)
    except Unreadable as error:
        return Contents((), (said(name, str(error)),))
    articles: list[Article] = []
    skipped = [said(skip.path, skip.reason) for skip in parsed.skipped]
    for document in parsed.documents:
        path = document.path
        if _writable(path) != path:
            skipped.append(said(ascii(path), "its name is not UTF-8; rename it"))
        elif redact(path) != path:
            # A path is quoted in every citation, and a changed one would lead nowhere.
            skipped.append(said(path, "its name holds personal data; rename it"))
        else:
            title, text, article, *tags = map(
                _writable, (document.title, document.text, document.article, *document.tags)
            )
            document = redacted(replace(document, title=title, text=text, article=article, tags=tuple(tags)), redact)
            passages = tuple(split(document, encoder.count_tokens, max_tokens))
            if passages:
                tokens = sum(encoder.count_tokens(passage.text) for passage in passages)
                articles.append(Article(document, passages, tokens))
            else:
                skipped.append(said(path, "no text"))
    return Contents(tuple(articles), tuple(skipped))


def _writable(text: str) -> str:
    """`text` without halves of surrogate pairs, which JSON and file names can hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def _kept(cache: Cache, key: bytes) -> Contents | None:
    """What the cache has at `key`, whole as it was written; None else."""
    value = cache.known([key]).get(key, b"")
    if _hash(value[_HASH_BYTES:]) != value[:_HASH_BYTES]:
        return None
    return _CONTENTS.validate_json(value[_HASH_BYTES:])


def _code(redact: Redact) -> str:
    """Names the code that reads: this package, the one that `redact` is from, Python, and all that is installed.

    Whole folders and every library, since a list of what really takes part would fall behind.
    """
    folders = [Path(__file__).parent]
    if isinstance(redact, FunctionType) and not redact.__closure__ and "<" not in redact.__qualname__:
        folders.append(Path(redact.__code__.co_filename).parent)
        name = f"{redact.__module__}.{redact.__qualname__}"
    else:
        name = secrets.token_hex()  # its source does not say what it does, so nothing that is kept may be used
    sources = [
        _hash(path.read_bytes()).hex() for folder in folders for path in sorted(folder.glob("*")) if path.is_file()
    ]
    installed = sorted({path.name for place in sys.path for path in Path(place).glob("*.dist-info")})
    return _hash(json.dumps([name, sources, installed, sys.version]).encode()).hex()


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
