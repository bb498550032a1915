"""Which passages share the query's words: BM25 (Robertson and Zaragoza, 2009) by bm25s, for Chinese and English."""

import functools
import logging
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.language import simplified

Shares = npt.NDArray[np.float32]
_TERM = re.compile(r"[a-z0-9]+(?:['.][a-z0-9]+)*|[\u3400-\u4dbf\u4e00-\u9fff]+")
_K1, _B = 1.2, 0.75


def terms(text: str) -> list[str]:
    """What is counted: stems of English words, Chinese characters and pairs of them; common English words are none.

    Pairs of characters find as well as segmented words do, and need no dictionary that misses the company's own.
    """
    import Stemmer

    common = _common_words()
    stemmer = Stemmer.Stemmer("english")  # one stemmer is not safe in several threads
    found: list[str] = []
    for run in _TERM.findall(unicodedata.normalize("NFKC", simplified(text)).lower()):
        if run[0] >= "\u3400":
            found += run
            found += [run[i : i + 2] for i in range(len(run) - 1)]
        elif run not in common:
            found.append(stemmer.stemWord(run))
    return found


class Lexical:
    """BM25 over the passages of an index; reading is thread-safe."""

    def __init__(self, bm25: Any) -> None:
        self._bm25 = bm25
        count = bm25.scores["num_docs"]
        holding = np.diff(bm25.scores["indptr"])
        self._weights = _rarity(holding, count)
        self._unseen = float(_rarity(np.zeros(1), count)[0])

    @classmethod
    def of(cls, texts: Sequence[Sequence[str]]) -> "Lexical":
        """BM25 over texts, at least one, each given as its `terms`."""
        bm25s = _bm25s()
        ids: dict[str, int] = {}
        rows = [[ids.setdefault(term, len(ids)) for term in text] for text in texts]
        if not ids:
            ids, rows = {"": 0}, [[0], *rows[1:]]  # bm25s knows no empty vocabulary
        bm25 = bm25s.BM25(k1=_K1, b=_B, method="lucene")
        bm25.index((rows, ids), create_empty_token=False, show_progress=False)
        return cls(bm25)

    @classmethod
    def open(cls, folder: Path) -> "Lexical":
        """What `save` wrote, its arrays memory-mapped; pickles are refused."""
        return cls(_bm25s().BM25.load(folder, mmap=True, allow_pickle=False))

    def save(self, folder: Path) -> None:
        self._bm25.save(folder, show_progress=False, allow_pickle=False)

    def shares(self, query: str) -> Shares:
        """How much of the query's weight each passage holds, float32 of shape (passages,), from 0 to under 1.

        A share is the BM25 score over the highest that any text could reach: rare words weigh more, and words
        that no passage has count as not held.
        """
        asked = dict.fromkeys(terms(query))  # in order, so that sums round alike in every process
        known = [self._bm25.vocab_dict[term] for term in asked if term in self._bm25.vocab_dict]
        most = float(self._weights[known].sum()) + self._unseen * (len(asked) - len(known))
        if not known:
            return np.zeros(len(self), dtype=np.float32)
        scores: Shares = self._bm25.get_scores_from_ids(known)
        return np.asarray(scores / most, dtype=np.float32)

    def __len__(self) -> int:
        return int(self._bm25.scores["num_docs"])


@functools.cache
def _common_words() -> frozenset[str]:
    from bm25s.stopwords import STOPWORDS_EN_PLUS

    return frozenset(STOPWORDS_EN_PLUS)  # a tuple, which took three quarters of the time to look through


def _bm25s() -> Any:
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # which importing it sets to DEBUG
    return bm25s


def _rarity(holding: npt.NDArray[Any], count: int) -> npt.NDArray[np.float64]:
    """The weight of terms that `holding` of `count` passages hold: Lucene's inverse document frequency."""
    return np.log(1 + (count - holding + 0.5) / (holding + 0.5))
