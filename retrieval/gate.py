"""Hit or miss: does any passage answer the question?

The threshold is fitted on the knowledge base itself. Each heading is asked as a question while its own
article is left out; what it then still scores is about what a loosely worded real question scores against
the right passage, so a low quantile of those scores misses few real questions. It is fitted for each
language, since cosines of one encoder sit at different levels in different languages.
"""

from dataclasses import dataclass

import numpy as np

from retrieval.encoder import Vectors
from retrieval.language import Language
from retrieval.passages import Passage

QUANTILE = 0.05
_FEWEST_HEADINGS = 10


@dataclass(frozen=True)
class Gate:
    thresholds: dict[str, float]
    """The lowest cosine that counts as a hit, by the question's language; -1 lets everything pass."""

    def threshold(self, language: Language) -> float:
        """The cosine from which on the best passage is a hit.

        A language that the knowledge base lacks takes the lowest threshold of the others, since cosines
        between languages run lower.
        """
        return self.thresholds.get(language, min(self.thresholds.values(), default=-1.0))


def fit(passages: list[Passage], vectors: Vectors, labels: Vectors) -> Gate:
    """Fit the gate for an index.

    `vectors` are the passages' embeddings, `labels` those of their labels asked as questions, both of
    shape (passages, dimensions). A language with fewer than ten headings lets every question pass.
    """
    languages = np.array([passage.language for passage in passages])
    articles = np.array([passage.article for passage in passages])
    thresholds = {}
    for language in sorted(set(languages)):
        mine = np.flatnonzero(languages == language)
        firsts = {passages[i].label: i for i in mine if passages[i].heading}
        asked = np.array(sorted(firsts.values()), dtype=int)
        if len(asked) < _FEWEST_HEADINGS:
            thresholds[str(language)] = -1.0
            continue
        scores = labels[asked] @ vectors[mine].T
        scores[articles[asked][:, None] == articles[mine][None, :]] = -1.0
        thresholds[str(language)] = round(float(np.quantile(scores.max(axis=1), QUANTILE)), 4)
    return Gate(thresholds)
