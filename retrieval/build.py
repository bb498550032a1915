"""Build an index: documents → passages → vectors, terms, gate → a new folder, verified, then renamed into place.

What was embedded before is taken from a cache, so a changed article costs its own passages only, and a build that
was killed goes on where it was. A crash at any point leaves every index that was there.
"""

import contextlib
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

from retrieval import store, vectors
from retrieval.cache import Cache, VectorCache
from retrieval.calibration import KnowledgeBase, LabelledQuestion
from retrieval.contents import Article, read_contents
from retrieval.documents import Skipped, knowledge_files
from retrieval.encoder import Encoder, Vectors
from retrieval.errors import IndexDamaged, InputError, NotReady
from retrieval.files import alone, content_id, folder_hashes, new_folder
from retrieval.gate import Gate
from retrieval.index import FORMAT, MANIFEST, Index, Query, read_manifest
from retrieval.language import simplified
from retrieval.lexical import terms
from retrieval.passages import Passage
from retrieval.redaction import Redact

PASSAGE_TOKENS = 256
"""Most encoder tokens in one passage: several fit a prompt, and each is about one thing."""
FALSE_MISS_RATE = 0.05
_SELF_QUERIES = 10
_log = logging.getLogger(__name__)


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
    files, skipped = knowledge_files(sources, exclude)
    labelled = [replace(question, text=redact(question.text)) for question in labelled]
    with alone(indexes):
        for scratch in indexes.glob(".*/"):  # left by a build that was killed
            shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.closing(Cache(indexes / "files.sqlite", "file")) as cache:
            limit = min(PASSAGE_TOKENS, encoder.max_tokens - 8)
            contents = read_contents(files, redact, encoder, limit, cache, progress)
            cache.prune()
        articles = contents.articles
        skipped += contents.skipped
        if not articles:
            raise _nothing_in(sources, skipped)
        skipped += _not_indexed(labelled, articles)
        name = _name(articles, labelled, encoder, false_miss_rate, small)
        if not _is_whole(indexes / name, encoder):
            with contextlib.closing(VectorCache(indexes / "vectors.sqlite", encoder.fingerprint)) as cache:
                embed = _Embedding(encoder, cache, progress)
                _write(indexes / name, articles, labelled, encoder, embed, false_miss_rate, small)
                cache.prune()
    return _built(indexes / name, skipped)


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


def _not_indexed(labelled: Sequence[LabelledQuestion], articles: Sequence[Article]) -> list[Skipped]:
    """Documents that labelled questions name and that are not indexed.

    Raises:
        InputError: None of those that the questions name is.
    """
    paths = [article.document.path for article in articles]
    known = {*paths, *(path.partition("#")[0] for path in paths)}
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


def _name(
    articles: Sequence[Article],
    labelled: Sequence[LabelledQuestion],
    encoder: Encoder,
    false_miss_rate: float,
    small: bool,
) -> str:
    documents = [article.document for article in articles]
    content = [documents, _passages(articles), labelled]
    choices = [FORMAT, encoder.fingerprint, false_miss_rate, small]
    return content_id(json.dumps([choices, content], ensure_ascii=False, default=vars))


def _passages(articles: Sequence[Article]) -> list[Passage]:
    return [passage for article in articles for passage in article.passages]


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
    articles: Sequence[Article],
    labelled: Sequence[LabelledQuestion],
    encoder: Encoder,
    embed: _Embedding,
    false_miss_rate: float,
    small: bool,
) -> None:
    import faiss

    documents, passages = [article.document for article in articles], _passages(articles)
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
            "tokens": sum(article.tokens for article in articles),
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
