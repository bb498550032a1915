"""How far judges who compare two answers agree, and whether they prefer what they are shown first."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt

from eval.intervals import SEED, Interval, share

RESAMPLES = 1000


@dataclass(frozen=True)
class Vote:
    """One judge's preference between two answers to one case, which stood left (shown first) and right."""

    judge: str
    item: str
    preferred: Literal["left", "right", "tie"]
    left: str
    """The arm shown left."""
    right: str

    @property
    def choice(self) -> str:
        """The arm preferred, or `tie`."""
        return {"left": self.left, "right": self.right, "tie": "tie"}[self.preferred]


@dataclass(frozen=True)
class Agreement:
    """Of judges on the items that two or more of them judged."""

    alpha: float | None
    """Krippendorff's, nominal: 1 is perfect, 0 chance; None where all votes are alike."""
    low: float | None
    high: float | None
    """95%, percentile bootstrap over items."""
    raw: float
    """Share of pairs of votes on an item that are alike, averaged over items."""
    kappa: float | None
    """Cohen's; None unless there are exactly two judges."""
    judges: int
    items: int


@dataclass(frozen=True)
class PositionBias:
    """How often the answer shown first was preferred, of the votes that are no tie."""

    first: Interval
    p: float
    """Two-sided, of one half."""


def agreement(votes: Sequence[Vote], seed: int = SEED) -> Agreement | None:
    """How far the judges agree; None where no item was judged by two.

    A judge who voted on an item more than once counts once: a tie unless all the votes are for one arm, as is usual
    where a judge is shown both orders (Zheng and others, arXiv 2306.05685).
    """
    chosen: dict[str, dict[str, str]] = {}
    for vote in votes:
        before = chosen.setdefault(vote.item, {}).get(vote.judge, vote.choice)
        chosen[vote.item][vote.judge] = vote.choice if vote.choice == before else "tie"
    shared = [choices for choices in chosen.values() if len(choices) > 1]
    if not shared:
        return None
    judges = sorted({judge for choices in shared for judge in choices})
    values = sorted({choice for choices in shared for choice in choices.values()})
    counts = np.array([[list(choices.values()).count(value) for value in values] for choices in shared])
    low, high = _interval(counts, seed)
    return Agreement(
        alpha=_alpha(counts),
        low=low,
        high=high,
        raw=float(np.mean([np.mean([a == b for a, b in combinations(c.values(), 2)]) for c in shared])),
        kappa=_kappa([(choices[judges[0]], choices[judges[1]]) for choices in shared]) if len(judges) == 2 else None,
        judges=len(judges),
        items=len(shared),
    )


def position_bias(votes: Sequence[Vote]) -> PositionBias | None:
    """Whether judges prefer the side and not the answer; None where all votes are ties.

    It tells only where each arm stood left about as often as right; else the better arm looks like a side.
    """
    from scipy.stats import binomtest

    first = [vote.preferred == "left" for vote in votes if vote.preferred != "tie"]
    if not first:
        return None
    return PositionBias(share(first), float(binomtest(sum(first), len(first)).pvalue))


def _alpha(counts: npt.NDArray[np.int_]) -> float | None:
    """Krippendorff's alpha of `counts`, items × choices; None where one choice only was made."""
    import krippendorff

    if (counts.sum(axis=0) > 0).sum() < 2:
        return None
    return float(krippendorff.alpha(value_counts=counts, level_of_measurement="nominal"))


def _interval(counts: npt.NDArray[np.int_], seed: int) -> tuple[float | None, float | None]:
    chance = np.random.default_rng(seed)
    drawn = (_alpha(counts[chance.integers(len(counts), size=len(counts))]) for _ in range(RESAMPLES))
    alphas = [alpha for alpha in drawn if alpha is not None]
    if not alphas:
        return None, None
    low, high = np.percentile(alphas, [2.5, 97.5])
    return float(low), float(high)


def _kappa(choices: Sequence[tuple[str, str]]) -> float | None:
    from sklearn.metrics import cohen_kappa_score

    first, second = zip(*choices, strict=True)
    if len({*first, *second}) < 2:
        return None
    return float(cohen_kappa_score(first, second))
