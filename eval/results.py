"""What an A/B evaluation came to, as `report.json` holds it and the report shows it."""

from dataclasses import dataclass, field
from typing import Any, Literal

from eval.intervals import Interval
from eval.paired import Difference
from retrieval.language import Language

Verdict = Literal["better", "worse", "mixed", "no difference", "incomplete"]


@dataclass(frozen=True)
class Arm:
    name: str
    prompt: str
    """Name of the prompt that it was asked with."""
    tried: dict[str, float]
    """Primary metric by prompt on the development cases; empty where none were given."""
    routes: dict[str, int]
    metrics: dict[str, Interval]
    """By metric name; one that no answer has is missing."""
    failed: int = 0
    """Cases without an answer of this arm; they are left out of its comparisons."""


@dataclass(frozen=True)
class Comparison:
    """Two arms on the same cases, `second` minus `first`.

    The primary metric stands alone; Holm's correction is over the others of quality, and over the costs.
    """

    first: str
    second: str
    differences: dict[str, Difference]


@dataclass(frozen=True)
class Slice:
    """A metric on some of the cases: the primary one, or abstention where it says nothing of them."""

    by: Literal["slice", "route", "language", "topic"]
    """`route`: the one that is right."""
    value: str
    metric: str
    arms: dict[str, float]
    """Mean by arm."""
    difference: Difference | None
    """None with under two groups."""
    n: int


@dataclass(frozen=True)
class Shown:
    """One arm's answer to a case that the report shows."""

    text: str
    route: str
    scores: dict[str, float | None]
    evidence: dict[str, str]
    """By metric; only where a scorer had something to say."""


@dataclass(frozen=True)
class Example:
    """A case on which the arms differ most."""

    case: str
    asked: list[dict[str, str]]
    """The conversation, `{"role", "content"}`."""
    reference: str | None
    passages: list[dict[str, str]]
    """`{"path", "heading", "text"}` as the candidate was given them."""
    answers: dict[str, Shown]
    """By arm: the baseline's and the candidate's."""


@dataclass(frozen=True)
class Curve:
    """A training curve."""

    name: str
    """`loss` or `validation loss`."""
    steps: list[int]
    values: list[float]


@dataclass(frozen=True)
class People:
    """What judges said of the same answers, side by side and blind."""

    judges: int
    items: int
    votes: int
    preferred: dict[str, int]
    """Votes by arm, and `tie`."""
    share: Interval | None
    """Of the votes that are no tie, those for the candidate, clustered by case."""
    alpha: float | None
    """Krippendorff's, nominal."""
    reasons: dict[str, dict[str, int]]
    """By arm: how often relevance, correctness and readability were named."""
    bias: dict[str, Any] | None = None
    """How often the left answer was preferred."""


@dataclass(frozen=True)
class Results:
    id: str
    at: str
    """RFC 3339."""
    verdict: Verdict
    sentences: dict[Language, str]
    """The verdict for a reader, with its uncertainty."""
    findings: dict[Language, list[str]]
    """What else a reader must know: what got worse, what could not be judged, what the data are."""
    primary: str
    baseline: str
    candidate: str
    cases: dict[str, Any]
    """`{"files": {name: SHA-256}, "n", "groups", "languages": {…}, "slices": {…}}`."""
    arms: list[Arm]
    comparisons: list[Comparison]
    """The first is candidate against baseline."""
    interaction: dict[str, Difference]
    """By metric: does LoRA add more with RAG than without; empty unless all four arms were asked."""
    slices: list[Slice]
    best: list[Example]
    """Where the candidate is better than the baseline."""
    worst: list[Example]
    training: list[Curve] = field(default_factory=list)
    lineage: dict[str, Any] = field(default_factory=dict)
    """Release, adapter, index, base, prompts, training, seed, and the machine that evaluated."""
    people: People | None = None
    judge: dict[str, Any] | None = None
    """The judge model: name, scored, unscored, bias, agreement with people."""
