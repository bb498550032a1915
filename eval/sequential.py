"""Arms that serve customers, watched while they run: intervals that hold however often one looks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.intervals import Interval
from retrieval.errors import InputError

TUNED_AT = 1_000
"""Observations, of both arms together, at which the interval is narrowest against others of its kind."""
ALARM = 0.001
"""`sample_ratio` below it is an alarm."""


@dataclass(frozen=True)
class Arm:
    """What an arm has shown so far."""

    n: int
    mean: float
    variance: float
    """Of one observation."""


def proportion(hits: int, n: int) -> Arm:
    """The arm of a yes-or-no outcome; its variance is that with one hit and one miss more, so that it is never 0."""
    smoothed = (hits + 1) / (n + 2)
    return Arm(n, hits / n if n else 0.0, smoothed * (1 - smoothed))


def sequence(n: int, mean: float, variance: float, alpha: float = 0.05, tuned_at: int = TUNED_AT) -> Interval | None:
    """An interval that holds the mean at all n at once with probability 1 - alpha; None under two observations.

    The asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit
    theory and asymptotic confidence sequences" (arXiv 2103.06476), theorem 2.2: one may look after every observation
    and stop at any. It is about half as wide again as a fixed interval at `tuned_at`, and right in large samples: with
    a `tuned_at` under a hundred the first looks are not.

    Raises:
        InputError: `alpha` is not between 0 and 1, or `tuned_at` not above 0.
    """
    from scipy.special import lambertw

    if not 0 < alpha < 1:
        raise InputError(f"alpha {alpha} must be between 0 and 1, as 0.05 is for 95% intervals")
    if tuned_at <= 0:
        raise InputError(f"tuned_at {tuned_at} must be above 0: about as many observations as one expects")
    if n < 2:
        return None
    rho2 = (-lambertw(-(alpha**2) / np.e, -1).real - 1) / tuned_at
    spread = n * rho2 + 1
    margin = float(np.sqrt(variance * spread / (n**2 * rho2) * np.log(spread / alpha**2)))
    return Interval(mean, mean - margin, mean + margin, n)


def difference(first: Arm, second: Arm, alpha: float = 0.05, tuned_at: int = TUNED_AT) -> Interval | None:
    """The second arm's mean minus the first's, as `sequence`; None until both arms have two observations.

    Each customer must be given an arm by chance, in shares that stay the same while the experiment runs. Customers of
    both arms are then one stream, whose variance is n times that of the difference (section 3 of the paper).
    """
    if min(first.n, second.n) < 2:
        return None
    n = first.n + second.n
    variance = n * (first.variance / first.n + second.variance / second.n)
    return sequence(n, second.mean - first.mean, variance, alpha, tuned_at)


def sample_ratio(counts: Sequence[int], shares: Sequence[float]) -> float:
    """The chi-square p of customers having been given arms in `shares` (of any sum); 1 before the first customer.

    Below `ALARM` the split is broken and no comparison of the arms holds; Fabijan and others, "Diagnosing sample ratio
    mismatch in online controlled experiments" (2019). So strict a threshold since one looks often: after each 20 of
    2,000 customers, a split that is right raises an alarm in one or two of 100 experiments.

    Raises:
        InputError: There are not as many shares as counts, or a share is not above 0.
    """
    from scipy.stats import chisquare

    if len(counts) != len(shares) or min(shares) <= 0:
        raise InputError(f"shares {list(shares)} for counts {list(counts)}: each arm needs one share above 0")
    if sum(counts) == 0:
        return 1.0
    expected = np.array(shares) / sum(shares) * sum(counts)
    return float(chisquare(counts, expected).pvalue)
