"""Build an index: documents → passages → vectors, terms, gate → a new folder, verified, then renamed into place.

What was embedded before is taken from a cache, so a changed article costs its own passages only, and a build that
was killed goes on where it was. A crash at any point leaves every index that was there.
"""

import contextlib
import itertools
import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from tqdm import tqdm

from retrieval import store, vectors
from retrieval.cache import VectorCache
from retrieval.calibration import KnowledgeBase, LabelledQuestion
from retrieval.documents import Document, Skipped, Unreadable, knowledge_files, parse
from retrieval.encoder import Encoder, Vectors
from retrieval.errors import IndexDamaged, InputError, NotReady
from retrieval.files import alone, content_id, folder_hashes, new_folder
from retrieval.gate import Gate
from retrieval.index import FORMAT, MANIFEST, Index, Query, read_manifest
from retrieval.language import simplified
from retrieval.lexical import terms
from retrieval.markup import plain
from retrieval.passages import Passage, split

PASSAGE_TOKENS = 256
"""Most encoder tokens in one passage: several fit a prompt, and each is about one thing."""
FALSE_MISS_RATE = 0.05
_SELF_QUERIES = 10
_log = logging.getLogger(__name__)
Redact = Callable[[str], str]


@dataclass(frozen=True)
class Built:
    """An index, and what it was built from."""

    id: str
    documents: int
    passages: int
    tokens: int
    languages: dict[str, int]
    """Documents by language."""
    vectors: str
    """How they are stored and searched."""
    gate: Gate
    weights: dict[str, float]
    """Of words, by language of the question."""
    skipped: tuple[Skipped, ...]


def build(
    sources: Sequence[Path],
    indexes: Path,
    encoder: Encoder,
    redact: Redact,
    *,
    exclude: tuple[str, ...] = (),
    labelled: Sequence[LabelledQuestion] = (),
    false_miss_rate: float = FALSE_MISS_RATE,
    small: bool = False,
    progress: bool = False,
) -> Built:
    """Index the documents of `sources`, which are folders, files and zip archives, into a new folder of `indexes`.

    `redact` removes personal data from every text before it is embedded or written. `labelled` are customers'
    questions for the gate to be fitted on too. `small` stores a byte for each dimension instead of four.

    Raises:
        InputError: There is nothing to index.
        StorageError: The disk refused; no index was changed.
    """
    documents, skipped = read_documents(sources, redact, exclude, progress)
    limit = min(PASSAGE_TOKENS, encoder.max_tokens - 8)
    passages_of = {
        document: split(document, encoder.count_tokens, limit)
        for document in tqdm(documents, desc="splitting", unit="document", disable=not progress)
    }
    skipped += [Skipped(document.path, "no text") for document, found in passages_of.items() if not found]
    documents = [document for document, found in passages_of.items() if found]
    passages = list(itertools.chain.from_iterable(passages_of.values()))
    if not passages:
        raise _nothing_in(sources, skipped)
    labelled = [replace(question, text=redact(question.text)) for question in labelled]
    name = _name(documents, passages, labelled, encoder, false_miss_rate, small)
    skipped += _not_indexed(labelled, documents)
    with alone(indexes):
        for scratch in indexes.glob(".*/"):  # left by a build that was killed
            shutil.rmtree(scratch, ignore_errors=True)
        if not _is_whole(indexes / name, encoder):
            with contextlib.closing(VectorCache(indexes / "vectors.sqlite", encoder.fingerprint)) as cache:
                embed = _Embedding(encoder, cache, progress)
                _write(indexes / name, documents, passages, labelled, encoder, embed, false_miss_rate, small)
                cache.prune()
    return _built(indexes / name, skipped)


def read_documents(
    sources: Sequence[Path], redact: Redact, exclude: tuple[str, ...] = (), progress: bool = False
) -> tuple[list[Document], list[Skipped]]:
    """The documents of `sources`, personal data removed, and what could not be read.

    Raises:
        InputError: A source does not exist, two documents have one name, or nothing can be read.
    """
    files, skipped = knowledge_files(sources, exclude)
    documents: list[Document] = []
    for file in tqdm(files, desc="reading", unit="file", disable=not progress):
        try:
            parsed = parse(file.name, file.read())
        except Unreadable as error:
            skipped.append(Skipped(file.name, str(error)))
            continue
        documents += map(_writable, parsed.documents)
        skipped += parsed.skipped
    kept: dict[str, Document] = {}
    for document in documents:
        if document.path.encode("utf-8", "replace").decode() != document.path:
            skipped.append(Skipped(ascii(document.path), "its name is not UTF-8; rename it"))
        elif redact(document.path) != document.path:
            # A path is quoted in every citation, and a changed one would lead nowhere.
            skipped.append(Skipped(redact(document.path), "its name holds personal data; rename it"))
        elif document.path in kept:
            skipped.append(Skipped(document.path, "another document has this path already; give it another"))
        else:
            kept[document.path] = _redacted(document, redact)
    if not kept:
        raise _nothing_in(sources, skipped)
    return list(kept.values()), skipped


def _is_whole(folder: Path, encoder: Encoder) -> bool:
    """Whether the index is there already; a damaged one is moved aside, so that it is built again."""
    if not folder.exists():
        return False
    try:
        Index(folder, encoder).close()
    except (IndexDamaged, NotReady) as error:
        aside = folder.with_name(f"{folder.name}-damaged-{time.time_ns()}")
        _log.warning("%s; it is now %s, and built anew", error, aside)
        folder.rename(aside)
        return False
    return True


def _not_indexed(labelled: Sequence[LabelledQuestion], documents: Sequence[Document]) -> list[Skipped]:
    """Documents that labelled questions name and that are not indexed.

    Raises:
        InputError: None of those that the questions name is.
    """
    known = {path for document in documents for path in (document.path, document.path.partition("#")[0])}
    named = sorted({path for question in labelled for path in question.relevant})
    unknown = [path for path in named if path not in known]
    if named and unknown == named:
        raise InputError(
            f"no document that the questions name is indexed, the first being {named[0]!r}; "
            "`relevant` holds paths relative to the knowledge folder"
        )
    return [Skipped(path, "named by a question, but not indexed; the question is left out") for path in unknown]


def _nothing_in(sources: Sequence[Path], skipped: Sequence[Skipped]) -> InputError:
    reasons = "".join(f"\n  {skip.path}: {skip.reason}" for skip in skipped)
    return InputError(
        f"nothing in {', '.join(map(str, sources))} can be indexed; give other articles with --knowledge{reasons}"
    )


def _writable(document: Document) -> Document:
    """`document` without halves of surrogate pairs, which JSON can hold and UTF-8 cannot."""
    title, text, article, *tags = (
        part.encode("utf-8", "replace").decode()
        for part in (document.title, document.text, document.article, *document.tags)
    )
    return replace(document, title=title, text=text, article=article, tags=tuple(tags))


def _redacted(document: Document, redact: Redact) -> Document:
    """`document` without personal data, page by page, so that pages still start where they did."""
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


def _name(
    documents: Sequence[Document],
    passages: Sequence[Passage],
    labelled: Sequence[LabelledQuestion],
    encoder: Encoder,
    false_miss_rate: float,
    small: bool,
) -> str:
    content = [[asdict(item) for item in items] for items in (documents, passages, labelled)]
    choices = [FORMAT, encoder.fingerprint, false_miss_rate, small]
    return content_id(json.dumps([choices, content], ensure_ascii=False))


class _Embedding:
    """The encoder behind the cache; texts in Simplified Chinese."""

    def __init__(self, encoder: Encoder, cache: VectorCache, progress: bool) -> None:
        self._encoder = encoder
        self._cache = cache
        self._progress = progress

    def passages(self, texts: Sequence[str]) -> Vectors:
        return self._embed("passage", texts, self._encoder.passages, "embedding passages")

    def questions(self, texts: Sequence[str]) -> Vectors:
        return self._embed("question", texts, self._encoder.queries, "embedding its questions")

    def without_sentence(self, texts: Sequence[str]) -> Vectors:
        return self._embed("passage", texts, self._encoder.passages, "embedding without a sentence")

    def _embed(self, kind: str, texts: Sequence[str], embed: Callable[[list[str]], Vectors], what: str) -> Vectors:
        return self._cache.embed(kind, list(map(simplified, texts)), embed, what if self._progress else None)


def _write(
    folder: Path,
    documents: Sequence[Document],
    passages: Sequence[Passage],
    labelled: Sequence[LabelledQuestion],
    encoder: Encoder,
    embed: _Embedding,
    false_miss_rate: float,
    small: bool,
) -> None:
    import faiss

    rows = [terms(passage.context) for passage in passages]
    base = KnowledgeBase(passages, embed.passages([passage.context for passage in passages]), rows)
    fitted = base.fit(labelled, embed.questions, embed.without_sentence, false_miss_rate)
    faiss_index, shape = vectors.build(base.vectors, fitted.questions, small)
    with new_folder(folder) as scratch:
        store.write(scratch / "passages.sqlite", documents, passages)
        faiss.write_index(faiss_index, str(scratch / "vectors.faiss"))
        np.save(scratch / "centres.npy", np.stack(list(base.centres.values())), allow_pickle=False)
        base.lexical.save(scratch / "lexical")
        _write_json(scratch / "gate.json", asdict(fitted.gate))
        manifest = {
            "format": FORMAT,
            "id": folder.name,
            "encoder": {
                "name": encoder.name,
                "fingerprint": encoder.fingerprint,
                "precision": encoder.precision,
            },
            "documents": len(documents),
            "passages": len(passages),
            "tokens": sum(encoder.count_tokens(passage.text) for passage in passages),
            "languages": {lang: sum(document.language == lang for document in documents) for lang in ("en", "zh")},
            "weights": fitted.weights,
            "vectors": asdict(shape),
            "centres": list(base.centres),
            "files": folder_hashes(scratch),
        }
        _write_json(scratch / MANIFEST, manifest)
        _verify(scratch, encoder, base)


def _verify(folder: Path, encoder: Encoder, base: KnowledgeBase) -> None:
    """Open the new index as serving does, and let passages look for themselves."""
    with contextlib.closing(Index(folder, encoder)) as index:
        step = max(1, len(base.passages) // _SELF_QUERIES)
        asked = base.passages[::step][:_SELF_QUERIES]
        searches = index.search_many([Query(p.context) for p in asked], 5, [p.language for p in asked])
        themselves = [
            any(
                # A copy, as in articles of several versions, is as good.
                entry.passage.article == passage.article or entry.passage.text == passage.text
                for entry in search.found
            )
            for passage, search in zip(asked, searches, strict=True)
        ]
    if sum(themselves) * 2 < len(asked):
        raise IndexDamaged(
            f"the new index is not used: only {sum(themselves)} of {len(asked)} passages find themselves in it. "
            f"The encoder {encoder.name} may be unfit for these texts; the index that was live still is"
        )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _built(folder: Path, skipped: Sequence[Skipped]) -> Built:
    manifest = read_manifest(folder)
    gate = TypeAdapter(Gate).validate_json((folder / "gate.json").read_bytes())
    shape = TypeAdapter(vectors.Shape).validate_python(manifest["vectors"])
    counts = {name: manifest[name] for name in ("id", "documents", "passages", "tokens", "languages", "weights")}
    return Built(**counts, vectors=str(shape), gate=gate, skipped=tuple(skipped))
