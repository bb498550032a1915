"""The FAISS index of an index: its type chosen by size, its recall measured, opened memory-mapped."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from retrieval.encoder import Vectors

FLAT_UP_TO = 25_000
"""Passages that are searched exactly: under 3 ms on one core."""
LEAST_RECALL = 0.99
"""Of the ten neighbours that all lists find for a question, the share that those searched must find."""
RANKED_AGAIN = 400
"""Vectors nearest by their bits that are ranked again by their cosines, at least. Among 13,000 Chinese passages that
misses .003 of the ten nearest; 200 missed .011, and saved 0.05 ms."""
Kind = Literal["flat", "flat-sq8", "ivf-rabitq", "ivf-rabitq-sq8"]
_SEED = 7
_TRAINING_PER_LIST = 39
"""Vectors to train each list's centre on; FAISS warns below this."""
_ROUNDS = 10
"""Of k-means: more moves the lists little."""


@dataclass(frozen=True)
class Shape:
    """How vectors are stored and searched, and what that costs."""

    kind: Kind
    lists: int
    """Inverted lists; 0 in a flat index."""
    probes: int
    """Lists searched for each query; 0 in a flat index."""
    recall: float
    """Measured share of the ten exact neighbours found."""
    bytes: int
    """Size of vectors and lists."""

    def __str__(self) -> str:
        lists = f", {self.probes} of {self.lists} lists searched" if self.lists else ""
        return f"{self.kind}{lists}, recall@10 {self.recall:.3f} of exact, {self.bytes / 2**20:.1f} MiB"


def build(vectors: Vectors, questions: Vectors, small: bool = False) -> tuple[Any, Shape]:
    """A FAISS index over unit vectors of shape (n, d), and its shape.

    Up to `FLAT_UP_TO` vectors it is exact. Above, about 2·√n inverted lists hold one bit for each dimension (RaBitQ:
    Gao and Long, arXiv 2405.12497), so many lists are searched that `LEAST_RECALL` holds on `questions`, of shape
    (m, d), and the best `RANKED_AGAIN` are ranked by the vectors themselves. `small` stores a byte for each dimension
    of those instead of four.
    """
    import faiss

    count, width = vectors.shape
    lists = 0 if count <= FLAT_UP_TO else round(2 * math.sqrt(count))
    index: Any = (
        faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
        if small
        else faiss.IndexFlatIP(width)
    )
    size = count * width * (1 if small else 4)
    if lists:
        inverted = faiss.IndexIVFRaBitQ(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
        inverted.cp.niter, inverted.cp.seed = _ROUNDS, _SEED
        size += count * (inverted.code_size + 8) + lists * width * 4
        index = faiss.IndexRefine(inverted, index)
    if not index.is_trained:
        rows = min(count, max(lists, 1000) * _TRAINING_PER_LIST)
        chosen = np.random.default_rng(_SEED).choice(count, rows, replace=False)
        index.train(np.ascontiguousarray(vectors[np.sort(chosen)]))
    index.add(vectors)
    exact: Kind = "flat-sq8" if small else "flat"
    kind: Kind = exact if not lists else "ivf-rabitq-sq8" if small else "ivf-rabitq"
    probes, recall = (0, 1.0) if kind == "flat" else _probes(index, vectors, questions, lists)
    return index, Shape(kind, lists, probes, round(recall, 4), size)


def _probes(index: Any, vectors: Vectors, questions: Vectors, lists: int) -> tuple[int, float]:
    """The fewest lists, in steps of a fifth, that find `LEAST_RECALL` of what all do; and recall of exact search."""
    import faiss

    ten = min(10, len(vectors))
    nearest = faiss.knn(questions, vectors, ten, metric=faiss.METRIC_INNER_PRODUCT)[1]
    if not lists:
        return 0, _overlap(index.search(questions, ten)[1], nearest)
    whole = index.search(questions, ten, params=_parameters(ten, lists))[1]
    probes = 1
    while True:
        found = index.search(questions, ten, params=_parameters(ten, probes))[1]
        if _overlap(found, whole) >= LEAST_RECALL or probes == lists:
            return probes, _overlap(found, nearest)
        probes = min(lists, probes + math.ceil(probes / 5))


def _parameters(count: int, probes: int, selector: Any = None, lists: Any = None) -> Any:
    """To find the `count` nearest in `probes` lists, among the passages and lists that selectors allow."""
    import faiss

    nearest = faiss.SearchParameters(sel=lists)  # type: ignore[call-arg]
    searched = faiss.SearchParametersIVF(nprobe=probes, sel=selector, quantizer_params=nearest)  # type: ignore[call-arg]
    return faiss.IndexRefineSearchParameters(  # type: ignore[call-arg]
        k_factor=max(RANKED_AGAIN / count, 2.0), base_index_params=searched
    )


def _overlap(found: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> float:
    """The mean share of each row of `wanted` that is in the same row of `found`."""
    return float(np.mean([len({*a} & {*b}) / len(b) for a, b in zip(found, wanted, strict=True)]))


@dataclass(frozen=True)
class Limit:
    """The vectors that a search may find, in the form in which FAISS reads them: made once for many searches."""

    selector: Any
    held: npt.NDArray[np.int64]
    """How many of them each list holds, of shape (lists,)."""
    lists: Any
    """Selects those lists that hold any."""


class OpenVectors:
    """An index file, memory-mapped; reading is thread-safe."""

    def __init__(self, path: Path, shape: Shape) -> None:
        """Open `path`, whose hash was checked: FAISS parses it natively and trusts it."""
        import faiss

        self.shape = shape
        opened: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        self._faiss = opened
        self._list_of = np.zeros(len(self), dtype=np.int32)
        """The list that holds each vector."""
        if shape.lists:
            inverted: Any = faiss.downcast_index(opened.base_index)
            self._centres: Vectors = inverted.quantizer.reconstruct_n(0, shape.lists)
            for number in range(shape.lists):
                size = inverted.invlists.list_size(number)
                if size:
                    self._list_of[faiss.rev_swig_ptr(inverted.invlists.get_ids(number), size)] = number

    def limit(self, allowed: npt.NDArray[np.bool_]) -> Limit | None:
        """For `search` to find only vectors that are `allowed`, of shape (n,); None if all are."""
        if allowed.all():
            return None
        held = np.bincount(self._list_of[allowed], minlength=self.shape.lists)
        return Limit(_bitmap(allowed), held, _bitmap(held > 0))

    def search(self, vector: Vectors, count: int, limit: Limit | None = None) -> tuple[Vectors, npt.NDArray[np.int64]]:
        """Cosines and positions of the `count` nearest to `vector`, of shape (d,), best first.

        Under a limit, as many of the vectors that it allows are looked at as of all without one.
        """
        import faiss

        if not self.shape.lists:
            parameters = faiss.SearchParameters(sel=limit and limit.selector)  # type: ignore[call-arg]
        elif limit is None:
            parameters = _parameters(count, self.shape.probes)
        else:
            parameters = _parameters(count, self._probes(vector, limit), limit.selector, limit.lists)
        cosines, positions = self._faiss.search(vector[None], count, params=parameters)
        real = positions[0] >= 0
        return cosines[0][real], positions[0][real]

    def _probes(self, vector: Vectors, limit: Limit) -> int:
        """Of the lists that hold allowed vectors, how many nearest ones hold enough of them together.

        What is allowed is of one language, tag or folder, and so stands in few lists, which may be far from `vector`:
        a fixed number of lists can hold none of it.
        """
        enough = max(RANKED_AGAIN, len(self) * self.shape.probes // self.shape.lists)
        lists = np.flatnonzero(limit.held)
        nearest = lists[np.argsort(-(self._centres[lists] @ vector), kind="stable")]
        return int(np.searchsorted(limit.held[nearest].cumsum(), min(enough, limit.held.sum()))) + 1

    def at(self, positions: npt.NDArray[np.int64]) -> Vectors:
        """The stored vectors at `positions`, float32 of shape (n, d)."""
        found: Vectors = self._faiss.reconstruct_batch(positions)
        return found

    def __len__(self) -> int:
        return int(self._faiss.ntotal)


def _bitmap(allowed: npt.NDArray[np.bool_]) -> Any:
    """A FAISS selector of the true entries of `allowed`."""
    import faiss

    return faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))  # type: ignore[call-arg,arg-type]
