"""Customers' questions that no passage answered, put together by meaning: what wants a new article."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import numpy as np
import numpy.typing as npt

from assistant.redaction import redact
from assistant.state import State, Transcript
from finetune.cleaning.duplicates import TWIN, connected, joined, plain
from finetune.cleaning.topics import Vectors, clusters, names_of
from finetune.nights import Topic
from retrieval.language import Language, language_of

MOST_TOPICS = 20
MOST_QUESTIONS = 2_000
"""Different questions of one language that are looked at. Of more, these are a sample, and counts are of the sample."""
EXAMPLES = 5
_MOST_CHARACTERS = 300
"""Of an example."""
_MOST_CLUSTERS = 60
_STRUCTURE = 0.1
"""Mean silhouette under which questions have nothing in common."""


class Encoder(Protocol):
    def queries(self, texts: list[str]) -> Vectors:
        """Unit vectors of `texts`, float32 of shape (n, dimensions)."""


@dataclass
class _Question:
    """One that was asked once or more, however it was typed."""

    texts: Counter[str] = field(default_factory=Counter)
    customers: set[str] = field(default_factory=set)

    @property
    def text(self) -> str:
        """As most typed it; of equals the first in the alphabet."""
        return min(self.texts, key=lambda text: (-self.texts[text], text))


def misses(state: State, since: datetime, encoder: Encoder, most: int = MOST_TOPICS) -> list[Topic]:
    """At most `most` topics that customers asked about in vain since then, each in one language.

    The topic that most different customers asked about comes first, and `count` is how many; whoever came without a
    name is as many customers as conversations. Transcripts are read one page at a time, and up to `MOST_QUESTIONS` of a
    language are kept.

    Raises:
        StorageError: The database cannot be reached.
    """
    samples: dict[Language, _Sample] = {"en": _Sample(), "zh": _Sample()}
    for transcript in state.transcripts(since):
        if _is_missed(transcript):
            question = redact(_last_question(transcript))
            samples[language_of(question)].add(question, _customer(transcript))
    found = [topic for sample in samples.values() for topic in _topics(_merged(sample), encoder.queries)]
    return sorted(found, key=lambda topic: (-topic.count, topic.label))[:most]


def _is_missed(transcript: Transcript) -> bool:
    """Whether a customer asked, and not an evaluation, and the search found nothing."""
    customers = transcript.arm == "assistant" or transcript.made.get("experiment") is not None
    return customers and transcript.made.get("decision") == "miss"


def _last_question(transcript: Transcript) -> str:
    asked = [str(message["content"]) for message in transcript.messages if message["role"] == "user"]
    return asked[-1] if asked else ""


def _customer(transcript: Transcript) -> str:
    return transcript.customer or transcript.conversation or transcript.id


class _Sample:
    """The questions whose hashes are smallest: a uniform sample, whose every question is counted from its first on."""

    def __init__(self) -> None:
        self.questions: dict[str, _Question] = {}
        """By the hash of what they read without punctuation."""
        self._end = "g"  # after every hash

    def add(self, text: str, customer: str) -> None:
        hashed = hashlib.sha256(plain(text).encode()).hexdigest()
        if not plain(text) or hashed >= self._end:
            return
        question = self.questions.setdefault(hashed, _Question())
        question.texts[text] += 1
        question.customers.add(customer)
        if len(self.questions) > MOST_QUESTIONS:
            self._end = max(self.questions)
            del self.questions[self._end]


def _merged(sample: _Sample) -> list[_Question]:
    """The questions, those that are nearly the same as one."""
    questions = sorted(sample.questions.values(), key=lambda question: question.text)
    merged: dict[int, _Question] = {}
    same = joined([plain(question.text) for question in questions], TWIN)
    for question, group in zip(questions, connected(len(questions), same), strict=True):
        one = merged.setdefault(group, _Question())
        one.texts += question.texts
        one.customers |= question.customers
    return list(merged.values())


def _topics(questions: Sequence[_Question], embed: Callable[[list[str]], Vectors]) -> list[Topic]:
    if not questions:
        return []
    labels = _parts(embed([question.text for question in questions]))
    parts = [[questions[i] for i in np.flatnonzero(labels == label)] for label in np.unique(labels)]
    names = names_of([[question.text for question in part] for part in parts])
    return [_topic(name, part) for name, part in zip(names, parts, strict=True)]


def _topic(name: str, part: Sequence[_Question]) -> Topic:
    order = sorted(part, key=lambda question: (-len(question.customers), question.text))
    customers = set[str]().union(*(question.customers for question in part))
    return Topic(name, len(customers), [question.text[:_MOST_CHARACTERS] for question in order[:EXAMPLES]])


def _parts(vectors: Vectors) -> npt.NDArray[np.int64]:
    """The number of each vector's part; as many parts as have the best silhouette (Rousseeuw, 1987).

    A number of topics, or a least cosine, would have to be chosen for each encoder and each night.
    """
    from sklearn.metrics import silhouette_score

    best, parts = _STRUCTURE, np.arange(len(vectors), dtype=np.int64)
    for count in range(2, min(_MOST_CLUSTERS, len(vectors) - 1) + 1):
        labels = clusters(vectors, count)
        score = float(silhouette_score(vectors, labels))
        if score > best:
            best, parts = score, labels
    return parts
