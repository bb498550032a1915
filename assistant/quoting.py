"""Answers without a model: the sentences of the passages that are nearest to the question."""

from collections.abc import Sequence

import numpy as np

from assistant.citations import Citer
from retrieval.index import Found, Index
from retrieval.language import sentences

SENTENCES = 3


def quote(question: str, found: Sequence[Found], index: Index, citer: Citer) -> str:
    """The best sentences of `found`, one a line in reading order, each with its citation marker."""
    candidates = [(entry, line) for entry in found for line in sentences(entry.passage.text)]
    vectors = index.embed([question, *(line for _, line in candidates)])
    nearest = np.argsort(-(vectors[1:] @ vectors[0]), kind="stable")[:SENTENCES]
    lines = [candidates[i] for i in sorted(nearest)]
    return "\n".join(f"{line} [{citer.add(entry, line)}]" for entry, line in lines)
