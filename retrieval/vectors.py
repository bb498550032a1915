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
Kind = Literal["flat", "flat-sq8", "ivf-flat", "ivf-sq8"]
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

    Up to `FLAT_UP_TO` vectors it is exact; above, an inverted index of about 4·√n lists, of which so many are
    searched that `LEAST_RECALL` holds on `questions`, of shape (m, d). `small` stores a byte for each dimension
    instead of four.
    """
    import faiss

    count, width = vectors.shape
    lists = 0 if count <= FLAT_UP_TO else round(4 * math.sqrt(count))
    index: Any
    if not lists:
        index = (
            faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
            if small
            else faiss.IndexFlatIP(width)
        )
    else:
        centres = faiss.IndexFlatIP(width)
        index = (
            faiss.IndexIVFScalarQuantizer(
                centres, width, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
            )
            if small
            else faiss.IndexIVFFlat(centres, width, lists, faiss.METRIC_INNER_PRODUCT)
        )
        index.cp.niter, index.cp.seed = _ROUNDS, _SEED
    if not index.is_trained:
        rows = min(count, max(lists, 1000) * _TRAINING_PER_LIST)
        chosen = np.random.default_rng(_SEED).choice(count, rows, replace=False)
        index.train(np.ascontiguousarray(vectors[np.sort(chosen)]))
    index.add(vectors)
    kind: Kind = ("ivf-sq8" if small else "ivf-flat") if lists else ("flat-sq8" if small else "flat")
    probes, recall = (0, 1.0) if kind == "flat" else _probes(index, vectors, questions, lists)
    size = count * width * (1 if small else 4) + lists * width * 4
    return index, Shape(kind, lists, probes, round(recall, 4), size)


def _probes(index: Any, vectors: Vectors, questions: Vectors, lists: int) -> tuple[int, float]:
    """The fewest lists, in powers of two, that find `LEAST_RECALL` of what all do; and the recall of exact search."""
    import faiss

    ten = min(10, len(vectors))
    nearest = faiss.knn(questions, vectors, ten, metric=faiss.METRIC_INNER_PRODUCT)[1]
    if not lists:
        return 0, _overlap(index.search(questions, ten)[1], nearest)
    whole = index.search(questions, ten, params=faiss.SearchParametersIVF(nprobe=lists))[1]  # type: ignore[call-arg]
    probes = 1
    while True:
        found = index.search(questions, ten, params=faiss.SearchParametersIVF(nprobe=probes))[1]  # type: ignore[call-arg]
        if _overlap(found, whole) >= LEAST_RECALL or probes * 2 > lists:
            return probes, _overlap(found, nearest)
        probes *= 2


def _overlap(found: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> float:
    """The mean share of each row of `wanted` that is in the same row of `found`."""
    return float(np.mean([len({*a} & {*b}) / len(b) for a, b in zip(found, wanted, strict=True)]))


class OpenVectors:
    """An index file, memory-mapped; reading is thread-safe."""

    def __init__(self, path: Path, shape: Shape) -> None:
        """Open `path`, whose hash was checked: FAISS parses it natively and trusts it."""
        import faiss

        self.shape = shape
        self._faiss: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        if shape.lists:
            self._faiss.make_direct_map()  # type: ignore[attr-defined]
            inverted: Any = faiss.downcast_index(self._faiss)
            self._centres: Vectors = inverted.quantizer.reconstruct_n(0, shape.lists)
            self._list_of = np.empty(len(self), dtype=np.int32)
            """The list that holds each vector."""
            for number in range(shape.lists):
                size = inverted.invlists.list_size(number)
                if size:
                    self._list_of[faiss.rev_swig_ptr(inverted.invlists.get_ids(number), size)] = number

    def search(
        self, vector: Vectors, count: int, allowed: npt.NDArray[np.bool_] | None = None
    ) -> tuple[Vectors, npt.NDArray[np.int64]]:
        """Cosines and positions of the `count` nearest to `vector`, of shape (d,), best first.

        `allowed`, of shape (n,), limits the search; more lists are searched then, so that recall stays.
        """
        import faiss

        selector, probes = None, self.shape.probes
        if allowed is not None:
            selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))  # type: ignore
            probes = self._probes(vector, allowed) if probes else 0
        parameters = (
            faiss.SearchParametersIVF(sel=selector, nprobe=probes)  # type: ignore[call-arg]
            if self.shape.lists
            else faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        )
        cosines, positions = self._faiss.search(vector[None], count, params=parameters)
        real = positions[0] >= 0
        return cosines[0][real], positions[0][real]

    def _probes(self, vector: Vectors, allowed: npt.NDArray[np.bool_]) -> int:
        """The nearest lists that hold, together, as many allowed vectors as an unlimited search looks at.

        What is allowed is of one language, tag or folder, and so stands in few lists, which may be far from `vector`:
        a fixed number of lists can hold none of it.
        """
        enough = min(len(self) * self.shape.probes / self.shape.lists, int(allowed.sum()))
        held = np.bincount(self._list_of[allowed], minlength=self.shape.lists)
        nearest = np.argsort(-(self._centres @ vector), kind="stable")
        return int(np.searchsorted(held[nearest].cumsum(), enough)) + 1

    def at(self, positions: npt.NDArray[np.int64]) -> Vectors:
        """The stored vectors at `positions`, float32 of shape (n, d)."""
        found: Vectors = self._faiss.reconstruct_batch(positions)
        return found

    def __len__(self) -> int:
        return int(self._faiss.ntotal)
