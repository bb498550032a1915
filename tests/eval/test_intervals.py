import numpy as np
import pytest

from eval.intervals import Estimate, Interval, clustered_error, clustered_mean, share


def test_the_mean_is_over_cases_and_the_interval_over_groups() -> None:
    interval = clustered_mean([[1.0], [0.0, 0.0, 0.0]])
    assert (interval.mean, interval.n) == (0.25, 4)
    assert interval.low == 0.0 and interval.high == 1.0


def test_more_copies_of_a_case_in_its_group_are_no_more_evidence() -> None:
    groups = [[float(n % 2)] for n in range(10)]
    one, ten = clustered_mean(groups), clustered_mean([group * 10 for group in groups])
    assert (one.low, one.high) == pytest.approx((ten.low, ten.high))


def test_twelve_right_of_twelve_may_still_be_three_in_four() -> None:
    """Wilson's lower end of n of n is n / (n + 1.96²). A bootstrap of scores that are all alike was 100% to 100%."""
    interval = clustered_mean([[1.0]] * 12)
    assert (interval.mean, interval.n) == (1.0, 12)
    assert (interval.low, interval.high) == pytest.approx((12 / 15.8415, 1.0), abs=1e-4)
    none = clustered_mean([[0.0]] * 12)
    assert (none.low, none.high) == pytest.approx((0.0, 3.8415 / 15.8415), abs=1e-4)


def test_groups_that_agree_count_as_one_observation_each() -> None:
    three, nine = clustered_mean([[1.0]] * 3), clustered_mean([[1.0] * 3] * 3)
    assert (nine.low, nine.high, nine.n) == (three.low, three.high, 9)
    half = clustered_mean([[0.0, 1.0]] * 4)
    assert 0 < half.low < half.mean == 0.5 < half.high < 1


def test_other_scores_that_agree_are_a_point() -> None:
    assert clustered_mean([[0.25, 0.25], [0.25]]) == Interval(0.25, 0.25, 0.25, 3)


def test_a_share_of_none_in_ten_may_still_be_a_quarter() -> None:
    """Wilson: 0 of n is at most z² / (n + z²), 3.84 / 13.84 for ten."""
    interval = share([False] * 10)
    assert (interval.mean, interval.low, interval.n) == (0.0, 0.0, 10)
    assert interval.high == pytest.approx(3.8415 / 13.8415, abs=1e-4)


def test_a_half_has_an_interval_of_equal_sides() -> None:
    interval = share([True, False] * 50)
    assert interval.mean == 0.5 and interval.low + interval.high == pytest.approx(1.0)


def test_the_error_of_groups_of_one_size_is_that_of_their_means() -> None:
    """Means 0 and 1: deviation √½, over √2 groups ½, with one degree of freedom."""
    estimate = clustered_error(np.array([0.0, 3.0]), np.array([3.0, 3.0]))
    assert (estimate.mean, estimate.error) == pytest.approx((0.5, 0.5))
    assert estimate.freedom == pytest.approx(1.0)


def test_one_large_group_among_small_ones_leaves_few_degrees_of_freedom() -> None:
    even = clustered_error(np.arange(10.0), np.full(10, 10.0))
    uneven = clustered_error(np.arange(10.0), np.array([91.0, *[1.0] * 9]))
    assert even.freedom == pytest.approx(9.0) and uneven.freedom < 2


def test_the_margin_is_that_of_students_t() -> None:
    """The 97.5% quantile at one degree of freedom is 12.706."""
    assert Estimate(0.0, 2.0, 1.0).margin(0.975) == pytest.approx(2 * 12.706, abs=1e-3)


def test_the_degrees_of_freedom_are_those_of_the_whole_covariance_matrix() -> None:
    """Cases of a group all alike: the covariance of the groups' adjusted residuals, written out."""
    counts = np.array([1.0, 2.0, 3.0, 4.0])
    shares = counts / 10
    residuals = np.eye(4) - np.outer(shares, np.ones(4))
    covariance = residuals @ np.diag(shares**2) @ residuals.T / np.sqrt(np.outer(1 - shares, 1 - shares))
    expected = np.trace(covariance) ** 2 / (covariance**2).sum()
    assert clustered_error(np.arange(4.0), counts).freedom == pytest.approx(expected)
