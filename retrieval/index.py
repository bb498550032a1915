"""The index: a folder with passages, vectors, and a manifest that names their hashes.

    indexes/<id>/manifest.json    what it was built from, with which encoder; the gate; SHA-256 of each file
                 passages.jsonl   one passage a line, in the order of the vectors
                 vectors.faiss    exact inner-product index of unit vectors

An index is immutable and named by its content. It is built aside, checked, and renamed into place.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from retrieval import gate
from retrieval.documents import Skipped, read_documents
from retrieval.encoder import Encoder, Vectors
from retrieval.errors import IndexDamaged, NotReady
from retrieval.files import content_id, new_folder, sha256
from retrieval.language import Language, language_of
from retrieval.passages import Passage, split

FORMAT = 1
PASSAGE_TOKENS = 256
"""Most encoder tokens in one passage: several fit a prompt, and each is about one thing."""


@dataclass(frozen=True)
class Found:
    passage: Passage
    score: float
    """Cosine with the query, -1 to 1."""


@dataclass(frozen=True)
class Search:
    """What a search found, best first, and whether the gate takes it for an answer."""

    found: tuple[Found, ...]
    hit: bool
    threshold: float
    """The cosine from which the best passage would have been a hit."""


@dataclass(frozen=True)
class Built:
    id: str
    documents: int
    passages: int
    tokens: int
    languages: dict[str, int]
    """Documents by language."""
    skipped: tuple[Skipped, ...]


def build(
    knowledge: Path,
    indexes: Path,
    encoder: Encoder,
    redact: Callable[[str], str],
    exclude: tuple[str, ...] = (),
    progress: bool = False,
) -> Built:
    """Index the documents under `knowledge` into a new folder of `indexes`.

    `redact` removes personal data from every text before it is embedded or written.

    Raises:
        InputError: There is nothing to index.
        StorageError: The disk refused; no index was changed.
    """
    import faiss

    documents, skipped = read_documents(knowledge, exclude)
    limit = min(PASSAGE_TOKENS, encoder.max_tokens - 8)
    passages = [
        replace(passage, title=redact(passage.title), heading=redact(passage.heading), text=redact(passage.text))
        for document in documents
        for passage in split(document, encoder.count_tokens, limit)
    ]
    lines = "".join(json.dumps(asdict(passage), ensure_ascii=False) + "\n" for passage in passages)
    name = content_id(str(FORMAT), encoder.fingerprint, lines)
    languages = {language: sum(document.language == language for document in documents) for language in ("en", "zh")}
    built = Built(
        name,
        len(documents),
        len(passages),
        sum(encoder.count_tokens(passage.text) for passage in passages),
        languages,
        tuple(skipped),
    )
    if (indexes / name).exists():
        return built

    vectors = encoder.passages([passage.context for passage in passages], progress)
    labels = encoder.queries([passage.label for passage in passages])
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    with new_folder(indexes / name) as scratch:
        (scratch / "passages.jsonl").write_text(lines, encoding="utf-8")
        faiss.write_index(flat, str(scratch / "vectors.faiss"))
        manifest = {
            "format": FORMAT,
            "id": name,
            "encoder": {"name": encoder.name, "fingerprint": encoder.fingerprint},
            "documents": len(documents),
            "passages": len(passages),
            "dimensions": int(vectors.shape[1]),
            "languages": languages,
            "gate": gate.fit(passages, vectors, labels).thresholds,
            "files": {file: sha256(scratch / file) for file in ("passages.jsonl", "vectors.faiss")},
        }
        (scratch / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        check = Index(scratch, encoder)
        best = check.search(passages[0].context, 1).found
        if len(check.passages) != len(passages) or not best:
            raise IndexDamaged(f"the new index of {knowledge} does not find its own first passage; nothing changed")
    return built


class Index:
    """An open index. Reading is thread-safe."""

    def __init__(self, folder: Path, encoder: Encoder) -> None:
        """Open `folder`, checking every hash before a native parser sees the file.

        Raises:
            NotReady: There is no index in `folder`.
            IndexDamaged: A file differs from its hash, or the index belongs to another encoder.
        """
        import faiss

        manifest = read_manifest(folder)
        for file, digest in manifest["files"].items():
            if not (folder / file).is_file() or sha256(folder / file) != digest:
                raise IndexDamaged(
                    f"{folder / file} does not match its manifest; delete {folder} and run: assistant index"
                )
        if manifest["encoder"]["fingerprint"] != encoder.fingerprint:
            raise IndexDamaged(
                f"index {folder.name} was built with the encoder {manifest['encoder']['name']}, "
                f"not with {encoder.name} as it is now; run: assistant index"
            )
        self.id = str(manifest["id"])
        self.gate = gate.Gate(manifest["gate"])
        with (folder / "passages.jsonl").open(encoding="utf-8") as file:
            self.passages = [Passage(**json.loads(line)) for line in file]
        self._vectors = faiss.read_index(str(folder / "vectors.faiss"))
        self._encoder = encoder
        self._of_language: dict[str, Any] = {}
        for language in ("en", "zh"):
            ids = [i for i, passage in enumerate(self.passages) if passage.language == language]
            if ids:
                only = faiss.IDSelectorBatch(np.array(ids, dtype=np.int64))
                self._of_language[language] = faiss.SearchParameters(sel=only)  # type: ignore[call-arg]

    def search(self, query: str, count: int, language: Language | None = None) -> Search:
        """The `count` best passages for `query`.

        Only passages in the query's language are searched where there are any, else all. `language`
        overrides what the query looks like.
        """
        return self.search_many([query], count, [language or language_of(query)])[0]

    def search_many(self, queries: list[str], count: int, languages: list[Language]) -> list[Search]:
        """One search for each query, embedded together."""
        if not queries:
            return []
        vectors = self._encoder.queries(queries)
        return [
            self._search(vector[None], count, language) for vector, language in zip(vectors, languages, strict=True)
        ]

    def _search(self, vector: Vectors, count: int, language: Language) -> Search:
        scores, ids = self._vectors.search(vector, count, params=self._of_language.get(language))
        found = tuple(
            Found(self.passages[i], round(float(score), 4))
            for score, i in zip(scores[0], ids[0], strict=True)
            if i >= 0
        )
        threshold = self.gate.threshold(language)
        return Search(found, bool(found) and found[0].score >= threshold, threshold)

    def embed(self, texts: list[str]) -> Vectors:
        """Unit vectors of `texts` as queries, float32 of shape (n, dimensions)."""
        return self._encoder.queries(texts)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an index.

    Raises:
        NotReady: There is none.
        IndexDamaged: It is not JSON of this format.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise NotReady(f"there is no index in {folder}; run: assistant index --knowledge DIR")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or {"format", "id", "encoder", "gate", "files"} - manifest.keys():
            raise ValueError("fields are missing")
        if manifest["format"] != FORMAT:
            raise IndexDamaged(
                f"{path} has format {manifest['format']}, this version reads {FORMAT}; run: assistant index"
            )
    except ValueError as error:
        raise IndexDamaged(f"{path} is not an index manifest ({error}); run: assistant index") from error
    return dict(manifest)
