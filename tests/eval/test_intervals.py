import pytest

from eval.intervals import Interval, clustered_mean, share


def test_the_mean_is_over_cases_and_the_interval_over_groups() -> None:
    interval = clustered_mean([[1.0], [0.0, 0.0, 0.0]])
    assert (interval.mean, interval.n) == (0.25, 4)
    assert interval.low == 0.0 and interval.high == 1.0


def test_more_copies_of_a_case_in_its_group_are_no_more_evidence() -> None:
    groups = [[float(n % 2)] for n in range(10)]
    one, ten = clustered_mean(groups), clustered_mean([group * 10 for group in groups])
    assert (one.low, one.high) == pytest.approx((ten.low, ten.high))


def test_groups_that_agree_leave_no_interval() -> None:
    assert clustered_mean([[1.0, 1.0], [1.0]]) == Interval(1.0, 1.0, 1.0, 3)


def test_a_share_of_none_in_ten_may_still_be_a_quarter() -> None:
    """Wilson: 0 of n is at most z² / (n + z²), 3.84 / 13.84 for ten."""
    interval = share([False] * 10)
    assert (interval.mean, interval.low, interval.n) == (0.0, 0.0, 10)
    assert interval.high == pytest.approx(3.8415 / 13.8415, abs=1e-4)


def test_a_half_has_an_interval_of_equal_sides() -> None:
    interval = share([True, False] * 50)
    assert interval.mean == 0.5 and interval.low + interval.high == pytest.approx(1.0)
