import math

import numpy as np
import pytest

from eval.sequential import ALARM, Arm, difference, proportion, sample_ratio, sequence
from retrieval.errors import InputError

LOOKS = range(20, 2_001, 20)
"""Customers of both arms together."""


def arm(outcomes: np.ndarray, n: int) -> Arm:
    return Arm(n, float(outcomes[:n].mean()), float(outcomes[:n].var(ddof=1)))


def yes(outcomes: np.ndarray, n: int) -> Arm:
    return proportion(int(outcomes[:n].sum()), n)


def wrong(kind: str, repetitions: int = 300) -> tuple[float, float]:
    """How often two equal arms were ever told apart: by the sequence, and by a fixed 95% interval at each look."""
    chance = np.random.default_rng(4)
    sequential = fixed = 0
    for _ in range(repetitions):
        if kind == "binary":
            arms, summary = chance.random((2, 1_000)) < 0.3, yes
        else:
            arms, summary = chance.exponential(size=(2, 1_000)), arm
        looks = [(summary(arms[0], n // 2), summary(arms[1], n // 2)) for n in LOOKS]
        intervals = [difference(*look) for look in looks]
        errors = [1.96 * math.sqrt(a.variance / a.n + b.variance / b.n) for a, b in looks]
        sequential += any(interval is None or interval.low > 0 or interval.high < 0 for interval in intervals)
        fixed += any(abs(b.mean - a.mean) > error for (a, b), error in zip(looks, errors, strict=True))
    return sequential / repetitions, fixed / repetitions


@pytest.mark.parametrize("kind", ["binary", "skewed"])
def test_looking_a_hundred_times_finds_no_difference_where_none_is(kind: str) -> None:
    sequential, fixed = wrong(kind)
    assert sequential <= 0.055 and fixed > 0.25


def test_a_real_difference_is_found_and_stays_found() -> None:
    chance = np.random.default_rng(5)
    first, second = chance.random(4_000) < 0.3, chance.random(4_000) < 0.4
    intervals = [difference(yes(first, n), yes(second, n)) for n in range(100, 4_001, 100)]
    found = [interval is not None and interval.low > 0 for interval in intervals]
    assert not found[0] and found[-1] and found == sorted(found)


def test_where_it_is_tuned_the_sequence_is_half_as_wide_again_as_a_fixed_interval() -> None:
    interval = sequence(1_000, 0.5, 0.25)
    assert interval is not None and (interval.mean, interval.n) == (0.5, 1_000)
    fixed = 1.96 * math.sqrt(0.25 / 1_000)
    assert (interval.high - 0.5) / fixed == pytest.approx(1.55, abs=0.01)


@pytest.mark.parametrize("tuned_at", [200, 5_000])
def test_no_other_tuning_is_narrower_where_it_is_tuned(tuned_at: int) -> None:
    here, there = sequence(1_000, 0.0, 1.0, tuned_at=1_000), sequence(1_000, 0.0, 1.0, tuned_at=tuned_at)
    assert here is not None and there is not None and here.high < there.high


def test_a_difference_of_equal_arms_is_a_mean_with_twice_the_deviation() -> None:
    """Variances 1 of 500 each: 2/500 = 4/1000, as a mean of 1,000 with variance 4."""
    assert difference(Arm(500, 0.0, 1.0), Arm(500, 0.5, 1.0)) == sequence(1_000, 0.5, 4.0)


def test_before_two_observations_of_each_arm_there_is_no_interval() -> None:
    assert sequence(1, 0.0, 1.0) is None
    assert difference(Arm(1, 0.0, 0.0), Arm(99, 0.0, 1.0)) is None


def test_a_proportion_without_hits_is_still_uncertain() -> None:
    """One hit and one miss more: one in ten, .1 · .9."""
    assert proportion(0, 8) == Arm(8, 0.0, pytest.approx(0.09))
    assert proportion(0, 0) == Arm(0, 0.0, 0.25)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=r"alpha 5 must be between 0 and 1"):
        sequence(10, 0.0, 1.0, alpha=5)
    with pytest.raises(InputError, match=r"tuned_at 0 must be above 0"):
        sequence(10, 0.0, 1.0, tuned_at=0)
    with pytest.raises(InputError, match=r"shares \[1.0\] for counts \[5, 5\]: each arm needs one share above 0"):
        sample_ratio([5, 5], [1.0])


def test_a_split_as_planned_raises_no_alarm_and_a_broken_one_does() -> None:
    """450 and 550 for 500 each: 2 · 50² / 500 = 10, whose p is .0016; 440 and 560 are beyond the threshold."""
    assert sample_ratio([500, 500], [1, 1]) == 1.0
    assert sample_ratio([900, 100], [0.9, 0.1]) == pytest.approx(1.0)
    assert sample_ratio([450, 550], [0.5, 0.5]) == pytest.approx(0.00157, abs=1e-5)
    assert sample_ratio([440, 560], [0.5, 0.5]) < ALARM
    assert sample_ratio([0, 0], [1, 1]) == 1.0


def lowest(repetitions: int = 100) -> np.ndarray:
    """The smallest p that was ever seen of each of so many right splits."""
    chance = np.random.default_rng(6)
    first = (chance.random((repetitions, 2_000)) < 0.5).cumsum(axis=1)
    return np.array([min(sample_ratio([int(row[n - 1]), n - int(row[n - 1])], [1, 1]) for n in LOOKS) for row in first])


def test_a_right_split_seldom_raises_an_alarm_however_often_one_looks() -> None:
    seen = lowest()
    assert (seen < ALARM).mean() <= 0.05 and (seen < 0.05).mean() > 0.25
