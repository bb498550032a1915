"""The knowledge base asked its own questions: what the weight of words and the gate are fitted on.

A question is an entry of a question list, asked while that entry is left out; or, of articles, half of a sentence,
asked while the whole sentence is left out of its passage (the inverse cloze task of Lee et al., "Latent Retrieval for
Weakly Supervised Open Domain Question Answering", arXiv 1906.00300). Titles and headings are not asked: they share
more words with their article than customers do, and a gate fitted on them took most real questions for misses. What a
help centre does not answer is learned from the same questions with their article left out, and from everyday ones.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from retrieval import gate
from retrieval.encoder import Vectors
from retrieval.files import content_id
from retrieval.gate import NEIGHBOURS, Asked, Evidence, Gate
from retrieval.language import Language, language_of, sentences
from retrieval.lexical import Lexical, Shares, terms
from retrieval.passages import Passage

MOST_QUESTIONS = 1000
"""Own questions asked in each language; more change the fit little."""
MOST_MEASURED = 500
"""Questions that the recall of the vectors is measured on."""
SENTENCE_BYTES = range(20, 301)
"""Of sentences that are asked: shorter ones say nothing, longer ones are tables."""
WEIGHTS = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0)
"""Of words, tried."""
_SEED = "7"
_AT_ONCE = 64
_LEFT_OUT = -2.0
"""Below every cosine."""
Embed = Callable[[list[str]], Vectors]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LabelledQuestion:
    """A customer's question and the documents that answer it; none do if there are none."""

    text: str
    relevant: tuple[str, ...]
    language: Language | None = None
    """None: as it looks."""


@dataclass(frozen=True)
class Fitted:
    gate: Gate
    weights: dict[str, float]
    """What holding all of the question's words adds to a cosine, by the question's language."""
    questions: Vectors
    """Some of the questions that were asked, of shape (n, d), n at most `MOST_MEASURED`; passages if there are none."""


@dataclass(frozen=True)
class _Question:
    text: str
    language: Language
    answered: bool
    group: str
    articles: frozenset[int]
    """That answer it."""
    real: bool = False
    """A customer asked it."""
    everyday: bool = False
    """No help centre answers it."""
    own: tuple[int, ...] = ()
    """Passages that hold it: left out, or replaced by `rest`; none for a customer's question."""
    rest: str | None = None
    """The context of its one passage without the sentence."""


@dataclass(frozen=True)
class _Result:
    """A question against every passage, its own words left out; arrays of shape (passages,)."""

    cosines: Vectors
    shares: Shares
    here: Mask
    """In the question's language."""
    mine: Mask
    """Of articles that answer it."""


class KnowledgeBase:
    """The passages of an index that is being built."""

    def __init__(self, passages: Sequence[Passage], vectors: Vectors, rows: Sequence[Sequence[str]]) -> None:
        """`vectors`, of shape (passages, d), and terms `rows` are those of the passages' contexts."""
        numbers = {name: number for number, name in enumerate(dict.fromkeys(passage.article for passage in passages))}
        self.passages = passages
        self.vectors = vectors
        self.rows = rows
        self.lexical = Lexical.of(rows)
        self.article_of = np.array([numbers[passage.article] for passage in passages])
        self.language_of = np.array([passage.language for passage in passages])
        self.centres = {
            str(language): vectors[self.language_of == language].mean(axis=0)
            for language in sorted(set(self.language_of))
        }
        """Mean vector of each language's passages."""

    def fit(
        self,
        labelled: Sequence[LabelledQuestion],
        embed_questions: Embed,
        embed_passages: Embed,
        false_miss_rate: float,
    ) -> Fitted:
        """Fit the weight of words and the gate to these passages and to what customers asked.

        The two functions embed texts as questions and as passages.
        """
        own = self._own_questions()
        questions = [*own, *self._other_questions(labelled)] if own or labelled else []
        asked: list[Asked] = []
        some: list[Vectors] = []
        ranks: dict[str, list[list[float]]] = {}
        for question, vector, result in self._results(questions, embed_questions, embed_passages):
            asked += self._asked(question, vector, result)
            some += [vector] if question.own else []
            if question.answered and (result.here & result.mine).any():
                ranks.setdefault(question.language, []).append(_reciprocal_ranks(result))
        weights = {language: WEIGHTS[int(np.argmax(np.mean(rows, axis=0)))] for language, rows in ranks.items()}
        measured = np.stack(some[:: 1 + len(some) // MOST_MEASURED]) if some else self.vectors[:MOST_MEASURED]
        return Fitted(gate.fit(asked, false_miss_rate), weights, measured)

    def _own_questions(self) -> list[_Question]:
        """At most `MOST_QUESTIONS` of each language, seeded."""
        entries: dict[str, list[int]] = {}
        for i, passage in enumerate(self.passages):
            entries.setdefault(passage.path if passage.question else f"#{i}", []).append(i)
        # Drawn by content, so that a changed article changes its own questions only.
        order = sorted(entries.values(), key=lambda positions: content_id(_SEED, self.passages[positions[0]].id))
        found: dict[str, list[_Question]] = {language: [] for language in self.centres}
        for positions in order:
            first = self.passages[positions[0]]
            if len(found[first.language]) < MOST_QUESTIONS:
                found[first.language] += self._question(positions, random.Random(f"{_SEED} {first.id}"))
        return [question for questions in found.values() for question in questions]

    def _question(self, positions: Sequence[int], chance: random.Random) -> Iterator[_Question]:
        """The question that an entry of a list is, or that a passage of an article can be asked; or none."""
        first = self.passages[positions[0]]
        articles = frozenset([int(self.article_of[positions[0]])])
        if first.question:
            yield _Question(first.title, first.language, True, first.article, articles, own=tuple(positions))
            return
        said = [text for text in sentences(first.text) if len(text.encode()) in SENTENCE_BYTES]
        if said:
            sentence = chance.choice(said)
            rest = f"{first.label}\n{first.text.replace(sentence, ' ')}"
            text = _half(sentence, first.language, chance)
            yield _Question(text, first.language, True, first.article, articles, own=tuple(positions), rest=rest)

    def _other_questions(self, labelled: Sequence[LabelledQuestion]) -> list[_Question]:
        """What customers asked, and everyday questions that no help centre answers."""
        articles: dict[str, set[int]] = {}
        for passage, article in zip(self.passages, self.article_of.tolist(), strict=True):
            for path in (passage.path, passage.path.partition("#")[0]):
                articles.setdefault(path, set()).add(article)
        asked = []
        for question in labelled:
            known = frozenset(article for path in question.relevant for article in articles.get(path, ()))
            if bool(known) == bool(question.relevant):  # else its article is not indexed, and nothing is known of it
                group = self.passages[int(np.argmax(self.article_of == min(known)))].article if known else question.text
                language = question.language or language_of(question.text)
                asked.append(_Question(question.text, language, bool(known), group, known, real=True))
        return asked + [
            _Question(text, language_of(text), False, text, frozenset(), everyday=True)
            for text in files("retrieval").joinpath("elsewhere.txt").read_text(encoding="utf-8").splitlines()
        ]

    def _results(
        self, questions: Sequence[_Question], embed_questions: Embed, embed_passages: Embed
    ) -> Iterator[tuple[_Question, Vectors, _Result]]:
        """Each question with its vector and its result."""
        if not questions:
            return
        rests = {question.own[0]: question.rest for question in questions if question.rest is not None}
        rest_vectors = dict(zip(rests, embed_passages(list(rests.values())) if rests else (), strict=True))
        rows = list(self.rows)
        for i, rest in rests.items():
            rows[i] = terms(rest)
        rest_lexical = Lexical.of(rows)
        vectors = embed_questions([question.text for question in questions])
        for start in range(0, len(questions), _AT_ONCE):
            some = vectors[start : start + _AT_ONCE]
            for question, vector, cosines in zip(
                questions[start : start + _AT_ONCE], some, some @ self.vectors.T, strict=True
            ):
                shares = self.lexical.shares(question.text)
                without = rest_lexical.shares(question.text) if question.rest else shares
                for i in question.own:
                    cosines[i] = rest_vectors[i] @ vector if question.rest else _LEFT_OUT
                    shares[i] = without[i] if question.rest else 0.0
                here = np.asarray(self.language_of == question.language)
                mine = np.isin(self.article_of, list(question.articles))
                yield question, vector, _Result(cosines, shares, here, mine)

    def _asked(self, question: _Question, vector: Vectors, result: _Result) -> Iterator[Asked]:
        """The question as the gate sees it: as it is, and with the articles that answer it left out."""
        here, mine = result.here, result.mine
        for allowed, cross in ((here, False), (~here, True)):
            if not allowed.any() or (question.answered and not (allowed & mine).any()):
                continue  # the article that answers it is not in that language
            given = not question.own
            own_left = (allowed & mine & (result.cosines > _LEFT_OUT)).any()
            views = [(question.answered, allowed)] if given or own_left else []
            if not given:
                views.append((False, allowed & ~mine))
            for answered, searched in views:
                evidence = self._evidence(question, vector, result, searched, cross)
                if evidence:
                    yield Asked(
                        *(evidence.features(), answered, question.language, question.group),
                        *(question.real, cross, question.everyday),
                    )

    def _evidence(
        self, question: _Question, vector: Vectors, result: _Result, searched: Mask, cross: bool
    ) -> Evidence | None:
        cosines = np.where(searched, result.cosines, _LEFT_OUT)
        best = _nearest(cosines)
        if not len(best):
            return None
        shares = result.shares * searched * (not cross)
        words = int(np.argmax(shares))
        language = str(self.language_of[best[0]])
        return Evidence(
            cosines=cosines[best],
            articles=self.article_of[best].tolist(),
            vectors=self.vectors[best],
            background=float(self.centres[language] @ vector),
            words=float(shares[words]),
            words_article=int(self.article_of[words]) if shares[words] else -1,
        )


def _nearest(cosines: Vectors) -> npt.NDArray[np.int64]:
    """The positions of the `NEIGHBOURS` highest above `_LEFT_OUT`, best first; of equal ones, the first."""
    count = min(NEIGHBOURS, len(cosines))
    least = np.partition(cosines, -count)[-count]
    best = np.flatnonzero((cosines >= least) & (cosines > _LEFT_OUT))
    return best[np.argsort(-cosines[best], kind="stable")][:count]


def _reciprocal_ranks(result: _Result) -> list[float]:
    """One over the rank of the article that answers, for each of `WEIGHTS`."""
    here = result.here & (result.cosines > _LEFT_OUT)
    mine, others = here & result.mine, here & ~result.mine
    if not mine.any():
        return [0.0] * len(WEIGHTS)
    weights = np.array(WEIGHTS, dtype=np.float32)[:, None]
    best = (result.cosines[mine] + weights * result.shares[mine]).max(axis=1, keepdims=True)
    above = result.cosines[others] + weights * result.shares[others] >= best
    return [1 / (1 + int(count)) for count in above.sum(axis=1)]


def _half(sentence: str, language: Language, chance: random.Random) -> str:
    """Half of a sentence, from a random place on: words in English, characters in Chinese."""
    units = list(sentence) if language == "zh" else sentence.split()
    kept = min(len(units), max(5 if language == "zh" else 3, round(len(units) / 2)))
    start = chance.randrange(len(units) - kept + 1)
    return ("" if language == "zh" else " ").join(units[start : start + kept])
