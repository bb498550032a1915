"""Hit or miss: do the passages found answer the question? A decision with a stated error rate.

Each build asks the knowledge base its own questions (`retrieval/calibration.py`), twice: with the question itself
taken out of the passages that answer it (it should hit), and with the whole article left out (it should miss). A
logistic regression learns to tell the two apart from how the search came out; scores alone do not carry over between
encoders. Its threshold is cross-conformal (Vovk, "Cross-conformal predictors", arXiv 1208.0806): each question is
scored by a model that was fitted without its article, and of new questions like those asked about the target share
falls below the threshold.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from retrieval.encoder import Vectors

Decision = Literal["hit", "ambiguous", "miss"]
Features = npt.NDArray[np.float64]
NEIGHBOURS = 10
"""Passages that a decision looks at."""
SURE_FALSE_HIT_RATE = 0.2
"""Share of questions without an answer that may still be called a hit; between that and the miss is ambiguous."""
EVERYDAY_FALSE_HIT_RATE = 0.1
"""Of everyday questions in a language that no article is in, the share that is not called a miss."""
_NEVER = 1.01
FEWEST = 30
"""Questions under which nothing is fitted, or a language has no threshold of its own."""
ENOUGH_REAL = 100
"""Questions of customers, with or without an answer, from which on the others no longer count for a bound."""
_FOLDS = 5
_BINS = 10
FEATURES = (
    "cosine of the best passage",
    "cosine of the tenth",
    "best passage above the average one",
    "neighbours from one article",
    "lead over other articles",
    "neighbours close to each other",
    "words found",
    "words and meaning agree on the article",
)
_MEANING = (0, 1, 2, 3, 4, 5)
"""Features that are left when question and passages share no words, since they are in different languages."""
_COSINES = (0, 1)
"""Features that tell everyday questions from others in any pair of languages."""


@dataclass(frozen=True)
class Evidence:
    """How a search came out; what a decision is made from."""

    cosines: Vectors
    """Of the nearest passages, best first; at most `NEIGHBOURS`, at least one."""
    articles: Sequence[int]
    """The article of each."""
    vectors: Vectors
    """Of the nearest passages, of shape (neighbours, d)."""
    background: float
    """Mean cosine of the question with all passages."""
    words: float
    """Highest share of the question's words in one passage, 0 to 1."""
    words_article: int
    """The article of that passage; -1 if no passage has any."""

    def features(self) -> Features:
        """The values of `FEATURES`."""
        best, last, count = float(self.cosines[0]), float(self.cosines[-1]), len(self.cosines)
        own = sum(article == self.articles[0] for article in self.articles)
        others = (
            cosine for cosine, article in zip(self.cosines, self.articles, strict=True) if article != self.articles[0]
        )
        among = self.vectors @ self.vectors.T
        mutual = float(among[_pairs(count)].mean()) if count > 1 else best
        return np.array(
            [
                best,
                last,
                best - self.background,
                own / count,
                best - float(next(others, last)),
                float(self.cosines.mean()) - mutual,
                self.words,
                float(self.words_article == self.articles[0]),
            ]
        )


@functools.cache
def _pairs(count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The places above the diagonal of a square of `count` rows."""
    return np.triu_indices(count, 1)


@dataclass(frozen=True)
class Model:
    """A logistic regression over standardised features."""

    features: tuple[int, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float

    def terms(self, features: Features) -> Features:
        """What each feature adds to the log-odds, for features of shape (…, all)."""
        chosen = features[..., list(self.features)]
        return np.asarray((chosen - self.mean) / self.scale * self.weights)

    def probability(self, features: Features) -> Features:
        logits = self.terms(features).sum(axis=-1) + self.bias
        return np.asarray(1 / (1 + np.exp(-logits)))


@dataclass(frozen=True)
class Thresholds:
    miss: float
    """A probability below it is a miss."""
    hit: float
    """A probability from it on is a hit."""
    questions: int
    """Answered questions that `miss` was set on."""


@dataclass(frozen=True)
class Verdict:
    decision: Decision
    probability: float
    """That a passage answers, if as many questions have an answer as have none."""
    why: str


@dataclass(frozen=True)
class Gate:
    false_miss_rate: float
    """The target: of answered questions, the share that may be taken for misses."""
    models: dict[str, Model] = field(default_factory=dict)
    """`same`: question and passages in one language; `cross`: in two. Empty before there are enough questions."""
    thresholds: dict[str, Thresholds] = field(default_factory=dict)
    """By the question's language, `all`, and `cross`."""
    curve: tuple[dict[str, float], ...] = ()
    """Calibration: for each tenth of the questions, by probability: mean `probability`, `answered` share, `n`."""
    questions: int = 0
    without_answer: int = 0

    def summary(self) -> str:
        """For people: what the decision was fitted on, and where the bounds are."""
        if not self.models:
            return f"not fitted: fewer than {FEWEST} questions to ask; none is called a miss"
        bounds = ", ".join(
            f"{name} {limits.miss:.2f} to {min(limits.hit, 1):.2f}" for name, limits in sorted(self.thresholds.items())
        )
        return (
            f"of answered questions {self.false_miss_rate:.0%} at most are missed; fitted on {self.questions} answered "
            f"and {self.without_answer} unanswered; ambiguous: {bounds}"
        )

    def decide(self, evidence: Evidence | None, language: str, cross: bool) -> Verdict:
        """Judge a search for a question in `language`; `cross` if the passages are in another one."""
        if evidence is None:
            return Verdict("miss", 0.0, "no passage may be searched")
        if not self.models:
            few = "the knowledge base is too small to tell hits from misses"
            return Verdict("ambiguous", 0.5, few)
        model = self.models["cross" if cross else "same"]
        limits = self.thresholds["cross"] if cross else self.thresholds.get(language, self.thresholds["all"])
        features = evidence.features()
        probability = float(model.probability(features))
        decision: Decision = (
            "miss" if probability < limits.miss else "hit" if probability >= limits.hit else "ambiguous"
        )
        return Verdict(decision, round(probability, 4), _why(decision, probability, limits, model, features, cross))


@dataclass(frozen=True)
class Asked:
    """One question asked of the knowledge base, to calibrate on."""

    features: Features
    answered: bool
    language: str
    group: str
    """Questions of one group are not independent of each other: the article."""
    real: bool = False
    """A customer asked it."""
    cross: bool = False
    """Answered, if at all, in the other language."""
    everyday: bool = False
    """One of those that no help centre answers."""


def fit(asked: Sequence[Asked], false_miss_rate: float) -> Gate:
    """The gate for questions that were `asked`; one that calls nothing a miss if they are too few.

    Where customers asked `ENOUGH_REAL` answered questions in a language, its misses are bounded on those alone, since
    new questions are like them; and so are its hits on unanswered ones.
    """
    same = [question for question in asked if not question.cross]
    cross = [question for question in asked if question.cross]
    if not _enough(same):
        return Gate(false_miss_rate)
    model, scores = _fit(same, tuple(range(len(FEATURES))))
    thresholds = {"all": _thresholds(same, scores, false_miss_rate)}
    for language in sorted({question.language for question in same}):
        mine = [i for i, question in enumerate(same) if question.language == language]
        real_only = {answered: _many_are_real(same, mine, answered=answered) for answered in (True, False)}
        kept = [i for i in mine if same[i].real or not real_only[same[i].answered]]
        if sum(same[i].answered for i in mine) >= FEWEST:
            thresholds[language] = _thresholds([same[i] for i in kept], scores[kept], false_miss_rate)
    across, thresholds["cross"] = _between_languages(same, cross, false_miss_rate)
    answered = sum(question.answered for question in same)
    return Gate(
        false_miss_rate,
        {"same": model, "cross": across},
        thresholds,
        _curve(same, scores),
        answered,
        len(same) - answered,
    )


def _many_are_real(asked: Sequence[Asked], rows: Sequence[int], *, answered: bool) -> bool:
    """Whether customers asked enough of `rows`, of those with or without an answer, to set a bound on theirs alone."""
    return sum(asked[i].real and asked[i].answered == answered for i in rows) >= ENOUGH_REAL


def _enough(asked: Sequence[Asked]) -> bool:
    """Both kinds of question, from articles enough to leave some out."""
    answered = [question.group for question in asked if question.answered]
    unanswered = [question.group for question in asked if not question.answered]
    return min(len(answered), len(unanswered)) >= FEWEST and len({*answered, *unanswered}) >= _FOLDS


def _fit(asked: Sequence[Asked], features: tuple[int, ...]) -> tuple[Model, Features]:
    """A model of all questions, and for each question the probability by a model that never saw its article."""
    from sklearn.model_selection import GroupKFold
    from threadpoolctl import threadpool_limits

    rows = np.array([question.features for question in asked])
    answered = np.array([question.answered for question in asked])
    scores = np.zeros(len(asked))
    # With several threads, each of the solver's tiny steps waited for them: 20 times as long where cores are busy.
    with threadpool_limits(1, user_api="blas"):
        for train, test in GroupKFold(_FOLDS).split(rows, answered, [question.group for question in asked]):
            if answered[train].all() or not answered[train].any():
                continue  # a fold that holds all questions of one kind leaves none to learn from
            scores[test] = _model(rows[train], answered[train], features).probability(rows[test])
        return _model(rows, answered, features), scores


def _between_languages(
    same: Sequence[Asked], cross: Sequence[Asked], false_miss_rate: float
) -> tuple[Model, Thresholds]:
    """For questions in another language than the passages: from translated articles, where there are enough.

    Elsewhere no such question is known to have an answer, and no rate of false misses can be stated. Only what looks
    like an everyday question is a miss then, and nothing is a sure hit.
    """
    if _enough(cross):
        model, scores = _fit(cross, _MEANING)
        return model, _thresholds(cross, scores, false_miss_rate)
    known = [question for question in same if question.answered or question.everyday]
    if not _enough(known):
        known = list(same)
    model, _ = _fit(known, _COSINES)
    everyday = [float(model.probability(question.features)) for question in cross if question.everyday]
    miss = round(float(np.quantile(everyday, 1 - EVERYDAY_FALSE_HIT_RATE)), 6) if everyday else 0.0
    return model, Thresholds(miss, hit=_NEVER, questions=0)


def _model(rows: Features, answered: npt.NDArray[np.bool_], features: tuple[int, ...]) -> Model:
    from sklearn.linear_model import LogisticRegression

    chosen = rows[:, list(features)]
    mean, scale = chosen.mean(axis=0), np.maximum(chosen.std(axis=0), 1e-6)
    regression = LogisticRegression(class_weight="balanced", max_iter=1000).fit((chosen - mean) / scale, answered)
    exact = [tuple(round(float(value), 6) for value in values) for values in (mean, scale, regression.coef_[0])]
    return Model(features, exact[0], exact[1], exact[2], round(float(regression.intercept_[0]), 6))


def _thresholds(asked: Sequence[Asked], scores: Features, false_miss_rate: float) -> Thresholds:
    answered = np.array([question.answered for question in asked])
    hits, misses = np.sort(scores[answered]), np.sort(scores[~answered])
    rank = int(false_miss_rate * (len(hits) + 1))
    miss = float(hits[rank - 1]) if rank else 0.0
    sure = float(np.quantile(misses, 1 - SURE_FALSE_HIT_RATE)) if len(misses) else miss
    return Thresholds(round(miss, 6), round(max(miss, sure), 6), len(hits))


def _curve(asked: Sequence[Asked], scores: Features) -> tuple[dict[str, float], ...]:
    answered = np.array([question.answered for question in asked])
    bins = np.array_split(np.argsort(scores, kind="stable"), _BINS)
    return tuple(
        {
            "probability": round(float(scores[rows].mean()), 4),
            "answered": round(float(answered[rows].mean()), 4),
            "n": len(rows),
        }
        for rows in bins
        if len(rows)
    )


def _why(
    decision: Decision, probability: float, limits: Thresholds, model: Model, features: Features, cross: bool
) -> str:
    bounds = {
        "miss": f"{probability:.2f} is below {limits.miss:.2f}",
        "hit": f"{probability:.2f} is at least {limits.hit:.2f}",
        "ambiguous": f"{probability:.2f} is between {limits.miss:.2f} and {min(limits.hit, 1):.2f}",
    }[decision]
    terms = model.terms(features)
    order = np.argsort(-np.abs(terms), kind="stable")[:3]
    spoken = ", ".join(f"{FEATURES[model.features[i]]} {terms[i]:+.1f}" for i in order)
    language = "; the passages are in another language" if cross else ""
    return f"{bounds}; {spoken}{language}"
