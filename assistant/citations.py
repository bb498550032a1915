"""Which passage supports a sentence: every figure in it, and most of its words.

Markers are attached here and never taken from the model: a small model invents them.
"""

import functools
import re
import unicodedata
from collections.abc import Sequence, Set
from dataclasses import dataclass

from retrieval.index import Found
from retrieval.language import sentences

NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
LEAST_OVERLAP = 0.5
"""Share of a sentence's words that its passage must hold."""
_TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+(?:[.,:]\d+)*|[\u3400-\u9fff]+")
_EMPTY_WORDS = frozenset(
    "a an and are as at be by can do does for from has have if in is it its of on or so that the their then there "
    "this to was we will with you your".split()
)
_PLACEHOLDER = re.compile(r"<[A-Z]+_\d+>")
"""What redaction leaves: no figure, and no word."""
MARKER = re.compile(r"[^\S\n]*\[\d+\]")


@dataclass(frozen=True)
class Citation:
    n: int
    path: str
    heading: str
    quote: str
    score: float
    """What the passage was ranked by."""
    start: int
    """First character of the passage in the article's text."""
    end: int
    """One past the last."""
    place: str
    """For people: `line 12`, `page 3`, or nothing where the path says it all."""


def words(text: str) -> frozenset[str]:
    """What overlap is counted on: English content words, numbers, pairs of Chinese characters."""
    found: set[str] = set()
    for token in _TOKEN.findall(_PLACEHOLDER.sub(" ", text).lower()):
        if "\u3400" <= token[0] <= "\u9fff":
            found.update(token[i : i + 2] for i in range(max(1, len(token) - 1)))
        elif token not in _EMPTY_WORDS:
            found.add(token)
    return frozenset(found)


def numbers(text: str) -> frozenset[str]:
    """The figures in a text, in half-width digits, thousands separators removed."""
    plain = unicodedata.normalize("NFKC", _PLACEHOLDER.sub(" ", text))
    return frozenset(number.replace(",", "").rstrip(".:") for number in NUMBER.findall(plain))


@functools.lru_cache(maxsize=1024)
def _words_and_numbers(passage: str) -> tuple[frozenset[str], frozenset[str]]:
    """Words and figures, remembered: for articles only, never for what a customer wrote."""
    return words(passage), numbers(passage)


def overlap(sentence: str, text: str) -> float:
    """The share of the sentence's words that `text` holds; 0 if it lacks one of the sentence's figures."""
    return _share(words(sentence), numbers(sentence), words(text), numbers(text))


def _share(mine: Set[str], figures: Set[str], held: Set[str], stated: Set[str]) -> float:
    return len(mine & held) / len(mine) if mine and figures <= stated else 0.0


def without_markers(text: str) -> str:
    """`text` without markers that the model wrote."""
    return MARKER.sub("", text)


class Citer:
    """Cites sentence by sentence, numbering passages in the order in which they are first cited."""

    def __init__(self, found: Sequence[Found]) -> None:
        self._found = found
        self._held = [_words_and_numbers(each.passage.context) for each in found]
        """Words and figures of each passage."""
        self._numbers: dict[str, int] = {}
        self.citations: list[Citation] = []

    def cite(self, sentence: str) -> int | None:
        """The number of the passage that supports `sentence`; None for a question or an unsupported one."""
        if not self._held or sentence.rstrip().endswith(("?", "？")):
            return None
        mine, figures = words(sentence), numbers(sentence)
        shares = [_share(mine, figures, held, stated) for held, stated in self._held]
        best = max(range(len(shares)), key=shares.__getitem__)
        if shares[best] < LEAST_OVERLAP:
            return None
        return self.add(self._found[best], sentence)

    def add(self, found: Found, sentence: str) -> int:
        """Cite a passage for `sentence`; return its number."""
        passage = found.passage
        if passage.id not in self._numbers:
            self._numbers[passage.id] = len(self._numbers) + 1
            quote = max(sentences(passage.text), key=lambda line: len(words(line) & words(sentence)))
            number = self._numbers[passage.id]
            self.citations.append(
                Citation(
                    n=number,
                    path=passage.path,
                    heading=passage.label,
                    quote=quote,
                    score=found.score,
                    start=passage.start,
                    end=passage.end,
                    place=passage.place,
                )
            )
        return self._numbers[passage.id]
