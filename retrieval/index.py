"""An open index, and one search in it.

    indexes/<id>/manifest.json     what it was built from, with which encoder; how it searches; SHA-256 of each file
                 passages.sqlite   documents, and passages in the order of the vectors
                 vectors.faiss     unit vectors for inner products
                 centres.npy       mean vector of each language's passages
                 lexical/          BM25 weights of terms by passage
                 gate.json         the fitted gate with its calibration curve

An index is immutable and named by its content; `retrieval/build.py` makes it.

    query → embed → nearest passages, in its language and of articles that only the other has ┐
                  → passages in its language with its words                                   ┴ cosine + weight · share
    how that came out → gate → hit, ambiguous or miss
"""

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from retrieval.calibration import Mask
from retrieval.encoder import Encoder, Vectors
from retrieval.errors import IndexDamaged, InputError, NotReady
from retrieval.files import folder_hashes
from retrieval.gate import NEIGHBOURS, Decision, Evidence, Gate, Verdict
from retrieval.language import Language, language_of, simplified
from retrieval.lexical import Lexical, Shares
from retrieval.passages import Passage
from retrieval.store import Article, Store
from retrieval.vectors import Limit, OpenVectors, Shape

FORMAT = 3
"""To be raised when a build makes something else of the same articles: their index is kept otherwise."""
MANIFEST = "manifest.json"
_FIELDS = frozenset("id encoder documents passages tokens languages weights vectors centres files".split())
CANDIDATES = 50
"""Passages that each of dense and lexical search proposes, at least."""
CONTEXT_WEIGHT = 0.3
"""Of a question's vector, the share of its context. In real conversations (mtrag) recall@5 of follow-up questions is
.87 with it and .80 without; after a change of subject .02 are lost. Larger shares lose more there than they win."""
COMPARABLE = 30
"""Passages that a language needs for its mean to tell how high its cosines run. The mean of one passage is the passage
itself: a question's only Chinese article stood below any English one."""
RERANKED = 20
"""Best passages that a reranker reads."""
_OTHER: dict[Language, Language] = {"en": "zh", "zh": "en"}
Mode = Literal["hybrid", "dense", "bm25"]


@dataclass(frozen=True)
class Query:
    """A question of a conversation."""

    text: str
    context: str = ""
    """The question after what was said before it; nothing at the start of a conversation."""


@dataclass(frozen=True)
class Found:
    passage: Passage
    score: float
    """What passages are ordered by: cosine plus weighted share of words, or what a reranker says."""
    dense: float
    """Cosine with the query, -1 to 1."""
    lexical: float
    """Share of the query's words, by weight, 0 to 1; 0 where query and passage are in two languages."""


@dataclass(frozen=True)
class Search:
    """What a search found, best first, and whether it answers."""

    found: tuple[Found, ...]
    decision: Decision
    probability: float
    """That a passage answers, if as many questions have an answer as have none."""
    why: str

    @property
    def hit(self) -> bool:
        """The passages are worth showing: the search is not a miss."""
        return self.decision != "miss"


@dataclass(frozen=True)
class Filters:
    """Which passages may be found; None is no limit."""

    language: Language | None = None
    tag: str | None = None
    folder: str | None = None
    """A folder under the knowledge folder, or a document."""


@dataclass(frozen=True)
class _Searched:
    """The passages that a question in one language searches."""

    own: Mask
    """Those in its language."""
    limits: dict[Language, Limit | None]
    """For each language that any are in, the question's first: those to find there."""


@dataclass(frozen=True)
class _Part:
    """The nearest passages in one language, best first."""

    cosines: Vectors
    positions: npt.NDArray[np.int64]
    background: float
    """Mean cosine of the question with that language's passages."""


class Reranker(Protocol):
    """Reads a query with each passage and scores the pair."""

    def scores(self, query: str, passages: list[str]) -> list[float]: ...


class Index:
    """An open index. Reading is thread-safe."""

    def __init__(self, folder: Path, encoder: Encoder, reranker: Reranker | None = None) -> None:
        """Open `folder`, checking every hash before a native parser sees a file.

        Raises:
            NotReady: There is no index in `folder`.
            IndexDamaged: A file differs from its hash, or the index belongs to another encoder.
        """
        manifest = read_manifest(folder)
        _check_files(folder, manifest["files"])
        if manifest["encoder"]["fingerprint"] != encoder.fingerprint:
            raise IndexDamaged(
                f"index {folder.name} was built with the encoder {manifest['encoder']['name']} "
                f"({manifest['encoder']['fingerprint']}), not with {encoder.name} as it is now "
                f"({encoder.fingerprint}); run: assistant index"
            )
        self.id = str(manifest["id"])
        self.manifest = manifest
        self.gate = _parse(Gate, json.loads((folder / "gate.json").read_text(encoding="utf-8")), folder / "gate.json")
        self._weights: dict[str, float] = manifest["weights"]
        self.encoder = encoder
        self._reranker = reranker
        self._store = Store(folder / "passages.sqlite")
        self._lexical = Lexical.open(folder / "lexical")
        self._vectors = OpenVectors(folder / "vectors.faiss", _parse(Shape, manifest["vectors"], folder / MANIFEST))
        centres = np.load(folder / "centres.npy", allow_pickle=False)
        self._centres: dict[str, Vectors] = dict(zip(manifest["centres"], centres, strict=True))
        counts = {len(self._store.article_of), len(self._lexical), len(self._vectors), manifest["passages"]}
        if len(counts) > 1:
            raise IndexDamaged(f"the parts of index {folder.name} differ in length; delete {folder} and build it again")
        self._masks = {language: self._store.language_of == language for language in _OTHER}
        self._comparable = all(mask.sum() >= COMPARABLE for mask in self._masks.values())
        self._untranslated = {
            language: mask & ~np.isin(self._store.article_of, self._store.article_of[self._masks[_OTHER[language]]])
            for language, mask in self._masks.items()
        }
        self._unfiltered = {language: self._searched(language, Filters()) for language in _OTHER}

    def __len__(self) -> int:
        return len(self._vectors)

    def paths(self) -> set[str]:
        """The paths of all documents."""
        return set(self._store.path_of)

    def article(self, path: str) -> Article | None:
        """The document at `path`, whole; None if the index has none there."""
        return self._store.article(path)

    def close(self) -> None:
        self._store.close()

    def search(
        self,
        query: str | Query,
        count: int,
        language: Language | None = None,
        *,
        mode: Mode = "hybrid",
        filters: Filters | None = None,
    ) -> Search:
        """The `count` best passages for `query`.

        `language` overrides what the query looks like. Translations of articles that the language has are not
        searched, since they would show the same facts twice.

        Raises:
            InputError: No passage matches `filters`.
        """
        query = query if isinstance(query, Query) else Query(query)
        return self.search_many([query], count, [language or language_of(query.text)], mode=mode, filters=filters)[0]

    def search_many(
        self,
        queries: Sequence[Query],
        count: int,
        languages: list[Language],
        *,
        mode: Mode = "hybrid",
        filters: Filters | None = None,
    ) -> list[Search]:
        """One search for each query, embedded together."""
        if not queries:
            return []
        searched = self._unfiltered
        if filters and filters != Filters():
            searched = {language: self._searched(language, filters) for language in set(languages)}
        vectors = self._query_vectors(queries)
        return [
            self._search(query.text, vector, count, language, mode, searched[language])
            for query, vector, language in zip(queries, vectors, languages, strict=True)
        ]

    def _query_vectors(self, queries: Sequence[Query]) -> Vectors:
        vectors = self.embed([query.text for query in queries])
        continuing = [i for i, query in enumerate(queries) if query.context]
        if continuing:
            mixed = (1 - CONTEXT_WEIGHT) * vectors[continuing]
            mixed += CONTEXT_WEIGHT * self.embed([queries[i].context for i in continuing])
            vectors[continuing] = mixed / np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-12)
        return vectors

    def embed(self, texts: list[str]) -> Vectors:
        """Unit vectors of `texts` as queries, float32 of shape (n, dimensions)."""
        return self.encoder.queries([simplified(text) for text in texts])

    def _searched(self, language: Language, filters: Filters) -> _Searched:
        """What a question in `language` searches: all but translations of articles that it can read."""
        matching = self._matching(filters)
        if filters.language is None:
            matching &= self._masks[language] | self._untranslated[_OTHER[language]]
        masks = {spoken: matching & self._masks[spoken] for spoken in (language, _OTHER[language])}
        limits = {spoken: self._vectors.limit(mask) for spoken, mask in masks.items() if mask.any()}
        return _Searched(masks[language], limits)

    def _matching(self, filters: Filters) -> Mask:
        """The passages that `filters` allow."""
        matching = np.ones(len(self), dtype=bool)
        if filters.language is not None:
            matching &= self._masks[filters.language]
        if filters.tag is not None:
            matching &= np.fromiter((filters.tag in tags for tags in self._store.tags_of), dtype=bool, count=len(self))
        if filters.folder is not None:
            folder = filters.folder.strip("/")
            matching &= np.fromiter(
                (path == folder or path.startswith((f"{folder}/", f"{folder}#")) for path in self._store.path_of),
                dtype=bool,
                count=len(self),
            )
        if not matching.any():
            raise InputError(
                f"no passage matches the filter (language {filters.language or 'any'}, tag {filters.tag!r}, "
                f"folder {filters.folder!r}); "
                "tags stand in the front matter of articles, folders are relative to the knowledge folder"
            )
        return matching

    def _search(
        self,
        query: str,
        vector: Vectors,
        count: int,
        language: Language,
        mode: Mode,
        searched: _Searched,
    ) -> Search:
        """Search the passages `searched`, in the question's language and in the other one."""
        wanted = max(CANDIDATES, 2 * count)
        parts = {spoken: self._nearest(vector, wanted, spoken, limit) for spoken, limit in searched.limits.items()}
        if not parts:
            return Search((), *astuple(self.gate.decide(None, language, cross=False)))
        # Cosines between languages run lower, so each is taken above its language's mean.
        means = {spoken: part.background if self._comparable else 0.0 for spoken, part in parts.items()}
        level = means.get(language, next(iter(means.values())))
        shares = self._lexical.shares(query) * searched.own
        verdict = self._decide(parts, shares, language)

        near = np.concatenate([part.positions for part in parts.values()])
        positions = near if mode == "dense" else _most(shares, wanted)
        if mode == "hybrid":
            positions = np.concatenate([near, np.setdiff1d(positions, near)])
        cosines = self._vectors.at(positions) @ vector if len(positions) else np.zeros(0, dtype=np.float32)
        spoken_in = self._store.language_of[positions]
        above = cosines - np.array([means[spoken] for spoken in spoken_in], dtype=np.float32)
        scores = {
            "hybrid": above + level + self._weights.get(language, 0.0) * shares[positions],
            "dense": above + level,
            "bm25": shares[positions],
        }[mode]
        order = self._distinct(positions, np.argsort(-scores, kind="stable"))
        kept = order[: max(count, RERANKED) if self._reranker else count]
        passages = self._store.passages(positions[kept].tolist())
        found = [
            Found(passage, *(round(float(value), 4) for value in (scores[i], cosines[i], shares[positions[i]])))
            for passage, i in zip(passages, kept, strict=True)
        ]
        if self._reranker and mode == "hybrid":
            found = _reranked(self._reranker, query, found[:RERANKED]) + found[RERANKED:]
        return Search(tuple(found[:count]), verdict.decision, verdict.probability, verdict.why)

    def _decide(self, parts: dict[Language, _Part], shares: Shares, language: Language) -> Verdict:
        """The verdict on the passages in the question's language; if those miss, on the others."""
        verdicts: list[Verdict] = []
        for spoken, part in parts.items():
            verdicts.append(self.gate.decide(self._evidence(part, shares), language, cross=spoken != language))
            if verdicts[-1].decision != "miss":
                return verdicts[-1]
        return verdicts[0]

    def _nearest(self, vector: Vectors, count: int, spoken: Language, limit: Limit | None) -> _Part:
        cosines, positions = self._vectors.search(vector, count, limit)
        return _Part(cosines, positions, float(self._centres[spoken] @ vector))

    def _evidence(self, part: _Part, shares: Shares) -> Evidence:
        positions = part.positions[:NEIGHBOURS]
        words = int(np.argmax(shares))
        return Evidence(
            cosines=part.cosines[:NEIGHBOURS],
            articles=self._store.article_of[positions].tolist(),
            vectors=self._vectors.at(positions),
            background=part.background,
            words=float(shares[words]),
            words_article=int(self._store.article_of[words]) if shares[words] else -1,
        )

    def _distinct(self, positions: npt.NDArray[np.int64], order: npt.NDArray[np.int64]) -> list[int]:
        """`order` without further list entries of an article, since their answer is the same."""
        seen: set[int] = set()
        kept = []
        for i in order.tolist():
            position = positions[i]
            if self._store.is_question[position]:
                article = int(self._store.article_of[position])
                if article in seen:
                    continue
                seen.add(article)
            kept.append(i)
        return kept


def _most(shares: Shares, count: int) -> npt.NDArray[np.int64]:
    """The positions of the `count` highest shares above 0."""
    positions = np.flatnonzero(shares > 0)
    if len(positions) > count:  # zeros first, since partitioning so many equal values took 9 ms of 100,000
        some = shares[positions]
        positions = positions[some >= np.partition(some, -count)[-count]]
    return positions[np.argsort(-shares[positions], kind="stable")][:count]


def _reranked(reranker: Reranker, query: str, found: list[Found]) -> list[Found]:
    scores = reranker.scores(query, [entry.passage.context for entry in found])
    return [
        Found(entry.passage, round(score, 4), entry.dense, entry.lexical)
        for entry, score in sorted(zip(found, scores, strict=True), key=lambda pair: -pair[1])
    ]


def _check_files(folder: Path, files: dict[str, str]) -> None:
    found = folder_hashes(folder)
    if unknown := found.keys() - files.keys() - {MANIFEST}:
        raise IndexDamaged(f"{folder / min(unknown)} is not of this index; delete it")
    for name, digest in files.items():
        if found.get(name) != digest:
            raise IndexDamaged(f"{folder / name} does not match its manifest; delete {folder} and run: assistant index")


def _parse(kind: Any, values: Any, place: Path) -> Any:
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise IndexDamaged(
            f"{place} is not of this version ({error.errors()[0]['msg']}); run: assistant index"
        ) from None


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an index.

    Raises:
        NotReady: There is none.
        IndexDamaged: It is not JSON of this format.
    """
    path = folder / MANIFEST
    if not path.is_file() and folder.is_dir() and any(folder.iterdir()):
        raise IndexDamaged(f"{path} is missing; delete {folder} and run: assistant index")
    if not path.is_file():
        raise NotReady(f"there is no index in {folder}; run: assistant index --knowledge DIR")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or "format" not in manifest:
            raise ValueError("it has no format")
        if manifest["format"] != FORMAT:
            raise IndexDamaged(
                f"{path} has format {manifest['format']}, this version reads {FORMAT}; run: assistant index"
            )
        missing = _FIELDS - manifest.keys() or {"name", "fingerprint", "precision"} - {*manifest["encoder"]}
        if missing:
            raise ValueError(f"it has no {min(missing)}")
    except (TypeError, ValueError) as error:
        raise IndexDamaged(
            f"{path} is not an index manifest ({error}); delete {folder} and run: assistant index"
        ) from error
    return dict(manifest)
