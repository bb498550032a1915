"""95% intervals: of a mean over clustered cases, and of a share."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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


@dataclass(frozen=True)
class Estimate:
    """A mean over clustered cases, its standard error, and the degrees of freedom of that error."""

    mean: float
    error: float
    freedom: float

    def margin(self, probability: float) -> float:
        """The quantile of Student's t in standard errors, in units of the mean."""
        from scipy.special import stdtrit

        return float(stdtrit(self.freedom, probability)) * self.error


def clustered_mean(groups: Sequence[Sequence[float]], resamples: int = RESAMPLES) -> Interval:
    """The mean over all cases with a percentile bootstrap interval over whole groups of them.

    Resampling groups, not cases, since cases of one group share an article; Cameron, Gelbach and Miller,
    "Bootstrap-based improvements for inference with clustered errors" (2008). It stays within the range of the
    scores, and is too narrow with few groups: 22 unequal ones are covered about 91 times in 100; `clustered_error`
    holds there. `groups` must not be empty, nor any of them.

    Where all groups have one mean, or there is one group only, resampling finds nothing: the interval of scores of 0
    and 1 is then Wilson's over as many observations as there are groups, and that of other scores the point. Of
    differences, of which all may be 0, `eval.paired.difference` is the interval.
    """
    from scipy.stats import bootstrap
    from statsmodels.stats.proportion import proportion_confint

    sums = np.array([sum(group) for group in groups])
    counts = np.array([len(group) for group in groups])
    mean = float(sums.sum() / counts.sum())
    if np.ptp(sums / counts) == 0:
        low, high = mean, mean
        if all(score in (0, 1) for group in groups for score in group):
            low, high = map(float, proportion_confint(mean * len(groups), len(groups), method="wilson"))
        return Interval(mean, low, high, int(counts.sum()))
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


def clustered_error(sums: npt.NDArray[np.float64], counts: npt.NDArray[np.float64]) -> Estimate:
    """The mean over all cases with its CR2 standard error; `sums` and `counts` of each group, at least two groups.

    Bell and McCaffrey, "Bias reduction in standard errors for linear regression with multi-stage samples" (2002):
    the residual of a group with share h of the cases is divided by √(1 - h), and the degrees of freedom are those of
    the chi-square with the first two moments of that variance. They are taken as if the cases of a group were all
    alike, the fewest there can be: 22 unequal groups are covered too, where `groups - 1` of them cover 92 in 100.
    """
    shares = counts / counts.sum()
    mean = float(sums.sum() / counts.sum())
    residuals = (sums - mean * counts) / counts.sum()
    error = float(np.sqrt((residuals**2 / (1 - shares)).sum()))
    # The covariance of two adjusted residuals is √(weight · weight) · (alike - share - share); its squares are summed
    # by their powers, since a matrix of thousands of groups would not fit into memory.
    alike, weights = (shares**2).sum(), shares**2 / (1 - shares)
    w0, w1, w2 = ((weights * shares**power).sum() for power in range(3))
    own = weights * (1 - 2 * shares + alike)
    others = (alike * w0) ** 2 + 2 * w0 * w2 - 4 * alike * w0 * w1 + 2 * w1**2
    others -= ((weights * (alike - 2 * shares)) ** 2).sum()
    return Estimate(mean, error, float(own.sum() ** 2 / ((own**2).sum() + others)))


def share(hits: Sequence[bool]) -> Interval:
    """The share of hits with Wilson's score interval (Wilson, 1927), which holds near 0 and 1; `hits` not empty."""
    from scipy.stats import binomtest

    interval = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    return Interval(sum(hits) / len(hits), float(interval.low), float(interval.high), len(hits))
