"""95% intervals: of a mean over clustered cases, and of a share."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
SEED = 7


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% interval."""

    mean: float
    low: float
    high: float
    n: int
    """Cases that the mean is over."""


def clustered_mean(groups: Sequence[Sequence[float]], resamples: int = RESAMPLES) -> Interval:
    """The mean over all cases with a percentile bootstrap interval over whole groups of them.

    Resampling groups, not cases, since cases of one group share an article; Cameron, Gelbach and Miller,
    "Bootstrap-based improvements for inference with clustered errors" (2008). `groups` must not be empty, nor any
    of them; where all have one mean (or there is one group only) the interval is that point.
    """
    from scipy.stats import bootstrap

    sums = np.array([sum(group) for group in groups])
    counts = np.array([len(group) for group in groups])
    mean = float(sums.sum() / counts.sum())
    if np.ptp(sums / counts) == 0:
        return Interval(mean, mean, mean, int(counts.sum()))
    interval = bootstrap(
        (sums, counts),
        lambda total, n, axis: total.sum(axis=axis) / n.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Interval(mean, float(interval.low), float(interval.high), int(counts.sum()))


def share(hits: Sequence[bool]) -> Interval:
    """The share of hits with Wilson's score interval (Wilson, 1927), which holds near 0 and 1; `hits` not empty."""
    from scipy.stats import binomtest

    interval = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    return Interval(sum(hits) / len(hits), float(interval.low), float(interval.high), len(hits))
