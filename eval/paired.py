"""Two arms' scores of the same cases, compared in pairs.

pairs → differences, second minus first → sums over groups → CR2 interval, sign-flip test → Holm over the metrics
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from eval.cases import Case
from eval.intervals import SEED, Interval, clustered_error
from retrieval.errors import InputError

FLIPS = 9_999
"""Drawn where there are too many to count them all; a p of .05 is then right to .004."""
COUNTED = 4_096
"""Sums that the flips may come to while they are still counted."""


@dataclass(frozen=True)
class Pair:
    """A score of one case under both arms; cases of one group are not independent."""

    first: float
    second: float
    group: str


@dataclass(frozen=True)
class Difference:
    """Second arm minus first."""

    mean: float
    low: float
    high: float
    """95%, clustered by group."""
    n: int
    groups: int
    p: float
    """Two-sided, of no difference."""
    p_holm: float
    """Corrected over the metrics compared; `p` until `holm`."""
    effect: float
    """Cohen's d_z: mean over standard deviation of the differences of cases; 0 where all are equal."""
    smallest_detectable: float
    """Found 80 times in 100 at the 5% level, with as many cases that vary as much; more often with unequal groups."""

    @property
    def interval(self) -> Interval:
        return Interval(self.mean, self.low, self.high, self.n)

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}], n={self.n}, {self.groups} groups"


def pairs_of(cases: Sequence[Case], first: Sequence[float], second: Sequence[float]) -> list[Pair]:
    """Both arms' scores of the cases, in their order."""
    return [Pair(a, b, case.cluster) for case, a, b in zip(cases, first, second, strict=True)]


def difference(pairs: Sequence[Pair], seed: int = SEED) -> Difference | None:
    """The mean difference with its interval and test; None under two groups.

    The interval is that of Student's t with `clustered_error`. Where scores are 0 or 1, or differences of such, a
    case of +1 and one of -1 are added to it, as Bonett and Price, "Adjusted Wald confidence interval for a difference
    of binomial proportions based on paired data" (2012): arms that never differed in 20 cases may differ in the next,
    and their interval is not a point. Interval and test are different methods and may disagree near the 5% level.

    Raises:
        InputError: A score is not finite.
    """
    deltas = np.array([pair.second - pair.first for pair in pairs], dtype=np.float64)
    for pair in pairs:
        if not (math.isfinite(pair.first) and math.isfinite(pair.second)):
            raise InputError(f"group {pair.group!r}: {pair} has no score; leave out cases that one arm has none for")
    names, group = np.unique([pair.group for pair in pairs], return_inverse=True)
    if len(names) < 2:
        return None
    sums, counts = np.bincount(group, deltas).astype(np.float64), np.bincount(group).astype(np.float64)
    p = sign_flip(sums, seed)
    spread = float(deltas.std(ddof=1))
    if all(score in (-1.0, 0.0, 1.0) for pair in pairs for score in (pair.first, pair.second)):
        estimate = clustered_error(np.append(sums, (1.0, -1.0)), np.append(counts, (1.0, 1.0)))
    else:
        estimate = clustered_error(sums, counts)
    mean = float(deltas.mean())
    return Difference(
        mean=mean,
        low=estimate.mean - estimate.margin(0.975),
        high=estimate.mean + estimate.margin(0.975),
        n=len(pairs),
        groups=len(names),
        p=p,
        p_holm=p,
        effect=mean / spread if spread > 0 else 0.0,
        smallest_detectable=estimate.margin(0.975) + estimate.margin(0.8),
    )


def sign_flip(sums: npt.NDArray[np.float64], seed: int = SEED) -> float:
    """The two-sided p of no difference, from the sums of differences of each group.

    Without a difference the arms of a group may be swapped, which flips the sign of its sum: p is the share of all
    flips whose total is as far from 0 as the observed one. All are counted where they come to few enough totals, as
    they do for scores of 0 and 1 (McNemar's exact test where each group is one case); else `FLIPS` are drawn, and the
    observed one is counted with them; Phipson and Smyth, "Permutation p-values should never be zero" (2010).
    """
    size = np.abs(sums).sum()
    if size == 0:
        return 1.0
    steps = np.abs(sums[sums != 0]) / size
    reached = abs(sums.sum()) / size - 1e-9
    totals, chances = np.zeros(1), np.ones(1)
    for step in steps:
        both = np.append(totals + step, totals - step)
        _, kept, place = np.unique(both.round(9), return_index=True, return_inverse=True)
        totals, chances = both[kept], np.bincount(place, np.append(chances, chances) / 2).astype(np.float64)
        if len(totals) > COUNTED:
            return _drawn(steps, reached, seed)
    return float(min(chances[np.abs(totals) >= reached].sum(), 1.0))


def _drawn(steps: npt.NDArray[np.float64], reached: float, seed: int) -> float:
    chance = np.random.default_rng(seed)
    totals = np.zeros(FLIPS)
    for step in steps:
        totals += chance.choice((-step, step), size=FLIPS)
    return float((1 + (np.abs(totals) >= reached).sum()) / (1 + FLIPS))


def holm(differences: Mapping[str, Difference]) -> dict[str, Difference]:
    """The differences with p corrected over all of them; Holm, "A simple sequentially rejective test" (1979)."""
    from statsmodels.stats.multitest import multipletests

    if not differences:
        return {}
    corrected = multipletests([found.p for found in differences.values()], method="holm")[1]
    return {name: replace(differences[name], p_holm=float(p)) for name, p in zip(differences, corrected, strict=True)}


def interaction(
    base: Sequence[float],
    lora: Sequence[float],
    rag: Sequence[float],
    rag_lora: Sequence[float],
    groups: Sequence[str],
) -> Difference | None:
    """What the adapter adds with retrieval minus what it adds without, from one score a case; None under two groups."""
    scores = zip(base, lora, rag, rag_lora, groups, strict=True)
    return difference([Pair(alone - none, both - found, group) for none, alone, found, both, group in scores])


def not_worse(difference: Difference, margin: float, better: Literal["higher", "lower"]) -> bool:
    """The second arm is not inferior: its interval excludes a loss of `margin`, in units of the score.

    Raises:
        InputError: `margin` is not above 0.
    """
    if margin <= 0:
        raise InputError(f"margin {margin} of non-inferiority must be above 0: the largest loss that one accepts")
    return difference.low > -margin if better == "higher" else difference.high < margin
