"""What customers ask about: clusters for people to read, and a cap on each."""

import html
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from finetune.cleaning.duplicates import plain, preference
from finetune.cleaning.quality import core
from finetune.turns import Turn
from retrieval.language import language_of

Vectors = npt.NDArray[np.float32]
MOST_TOPICS = 30
LEAST_KEPT = 50
"""Turns that a topic keeps under any cap."""
EXAMPLES = 3
_LABEL_TERMS = 4
_CLUSTERED_WHOLE = 4_000
"""Turns up to which Ward's tree, whose time and memory grow with the square, is made of the turns themselves."""
_SEED = 7
_CENTRES = 1_000
_TERM = re.compile(r"[a-z]{3,}|[\u3400-\u9fff]{2,}")


@dataclass(frozen=True)
class Topic:
    label: str
    """Its most telling terms."""
    members: tuple[int, ...]
    """Positions in the turns that were clustered, nearest to the centre first."""
    share: float
    """Of all turns, 0 to 1."""
    examples: tuple[Turn, ...]
    """The turns nearest to the centre."""

    @property
    def size(self) -> int:
        return len(self.members)


def topics(turns: Sequence[Turn], embed: Callable[[list[str]], Vectors], most: int = MOST_TOPICS) -> list[Topic]:
    """Cluster the turns by question and answer: at most `most` topics, and at most √(turns/2); the largest first.

    `embed` makes unit vectors, float32 of shape (n, d). What each language has in common is taken off, so that a
    topic holds both; then Ward's method. On the sample logs 30 topics and the 36 articles have an adjusted Rand index
    of .48; from the questions alone it is .08, with languages left as they are .25, by k-means .34.
    """
    if not turns:
        return []
    texts = [f"{turn.question}\n{core(turn.answer.content)}" for turn in turns]
    order = sorted(range(len(turns)), key=lambda i: (texts[i], turns[i].place))  # whatever order they came in
    vectors = _without_language(embed([texts[i] for i in order]), [texts[i] for i in order])
    labels = clusters(vectors, min(most, max(1, round(math.sqrt(len(turns) / 2)))))
    members = []
    for label in np.unique(labels):
        at = np.flatnonzero(labels == label)
        nearest = np.argsort(-(vectors[at] @ vectors[at].mean(axis=0)), kind="stable")
        members.append(tuple(order[i] for i in at[nearest]))
    names = names_of([[texts[i] for i in of] for of in members])
    found = [
        Topic(name, of, len(of) / len(turns), tuple(turns[i] for i in of[:EXAMPLES]))
        for name, of in zip(names, members, strict=True)
    ]
    return sorted(found, key=lambda topic: (-topic.size, topic.label))


def capped(turns: Sequence[Turn], found: Iterable[Topic], share: float, least: int = LEAST_KEPT) -> list[Turn]:
    """The turns with no topic over `share` (0 to 1) of those that stay, or `least` turns; in the order given.

    What `duplicates.preference` puts last goes first. Capping what is capped changes nothing.
    """
    members = [topic.members for topic in found]
    sizes = [len(of) for of in members]
    most = max(sizes, default=0)
    while most > least and most > share * sum(min(size, most) for size in sizes):
        most -= 1
    kept = {i for of in members for i in sorted(of, key=lambda i: preference(turns[i]))[:most]}
    return [turn for i, turn in enumerate(turns) if i in kept]


def report(found: Sequence[Topic]) -> str:
    """The topics as a table in Markdown: label, turns, share and the most typical turns; texts are escaped."""
    lines = [
        f"# {len(found)} topics in {sum(topic.size for topic in found)} turns",
        "",
        "| topic | turns | share | most typical |",
        "|---|---:|---:|---|",
    ]
    for topic in found:
        typical = "<br>".join(
            f"**{_escaped(turn.question)}** {_escaped(turn.answer.content)} ({_escaped(turn.place)})"
            for turn in topic.examples
        )
        lines.append(f"| {_escaped(topic.label)} | {topic.size} | {topic.share:.1%} | {typical} |")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """`text` on one line, cut to 300 characters, none of them Markdown or HTML."""
    return html.escape(re.sub(r"([\\`*_\[\]|~])", r"\\\1", " ".join(text.split())[:300]), quote=False)


def _without_language(vectors: Vectors, texts: Sequence[str]) -> Vectors:
    """The vectors less the mean of their language's, of length one again."""
    languages = np.array([language_of(text) for text in texts])
    centred = vectors.copy()
    for language in np.unique(languages):
        centred[languages == language] -= vectors[languages == language].mean(axis=0)
    unit: Vectors = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
    return unit


def clusters(vectors: Vectors, count: int) -> npt.NDArray[np.int64]:
    """The number, under `count`, of each vector's cluster: Ward's method."""
    from sklearn.cluster import AgglomerativeClustering, MiniBatchKMeans

    if count == 1:
        return np.zeros(len(vectors), dtype=np.int64)
    ward = AgglomerativeClustering(count, linkage="ward")
    if len(vectors) <= _CLUSTERED_WHOLE:
        return np.asarray(ward.fit_predict(vectors), dtype=np.int64)
    means = MiniBatchKMeans(_CENTRES, random_state=_SEED, n_init=1).fit(vectors)
    return np.asarray(ward.fit_predict(means.cluster_centers_)[means.labels_], dtype=np.int64)


def _terms(text: str) -> list[str]:
    """English words of three letters and more that are not common, and pairs of Chinese characters."""
    from bm25s.stopwords import STOPWORDS_EN_PLUS

    found: list[str] = []
    for run in _TERM.findall(plain(text)):
        if run.isascii():
            found += [] if run in STOPWORDS_EN_PLUS else [run]
        else:
            found += [run[i : i + 2] for i in range(len(run) - 1)]
    return found


def names_of(groups: Sequence[Sequence[str]]) -> list[str]:
    """The terms that tell each group from the others: c-TF-IDF (Grootendorst, "BERTopic", arXiv 2203.05794)."""
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(analyzer=_terms)
    try:
        counts = counter.fit_transform(["\n".join(group) for group in groups]).toarray()
    except ValueError:  # no group has a term
        return [f"topic {n}" for n in range(1, len(groups) + 1)]
    weights = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    weights = weights * np.log1p(counts.sum() / len(groups) / counts.sum(axis=0))
    terms = counter.get_feature_names_out()
    names = []
    for row in weights:
        chosen: list[str] = []
        for at in np.argsort(-row, kind="stable"):
            term = str(terms[at])
            overlaps = not term.isascii() and any(set(term) & set(other) for other in chosen)
            if row[at] > 0 and not overlaps and len(chosen) < _LABEL_TERMS:
                chosen.append(term)
        names.append(" · ".join(chosen))
    return names
