import functools
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from eval import paired
from eval.cases import Case
from eval.paired import Difference, Pair, difference, holm, interaction, not_worse, pairs_of, sign_flip
from retrieval.errors import InputError

EQUAL = (5,) * 40
UNEQUAL = (1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 18, 22, 25, 30)
"""22 groups of 200 cases."""
REPETITIONS = 1000
SLACK = 0.014
"""Two standard errors of 95 in 100 over so many repetitions."""


def pairs(*deltas: float, groups: str = "") -> list[Pair]:
    names = groups or [f"c{n}" for n in range(len(deltas))]
    return [Pair(0.0, delta, group) for delta, group in zip(deltas, names, strict=True)]


def found(*p: float) -> dict[str, Difference]:
    (one,) = [difference(pairs(1.0, 0.0))]
    assert one is not None
    return {f"m{n}": replace(one, p=value, p_holm=value) for n, value in enumerate(p)}


def drawn(kind: str, sizes: tuple[int, ...], effect: float, chance: np.random.Generator) -> list[Pair]:
    """Cases of standard normal scores, or 1 for six in ten: a third each of how hard the group is, of the arm in the
    group, and of the case. The second arm is better by `effect`."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    hard = chance.normal(size=len(sizes))[group]
    first, second = (
        (hard + chance.normal(size=len(sizes))[group] + chance.normal(size=len(group))) / 3**0.5 for _ in range(2)
    )
    if kind == "binary":
        scores = first < NormalDist().inv_cdf(0.6), second < NormalDist().inv_cdf(0.6 + effect)
    else:
        scores = first, second + effect
    return [Pair(float(a), float(b), str(name)) for a, b, name in zip(*scores, group, strict=True)]


@functools.cache
def simulated(
    kind: str, sizes: tuple[int, ...], effect: float, repetitions: int = REPETITIONS
) -> tuple[Difference, ...]:
    """The difference found in each of `repetitions` evaluations."""
    chance = np.random.default_rng(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paired, "FLIPS", 199)
        return tuple(filter(None, (difference(drawn(kind, sizes, effect, chance), n) for n in range(repetitions))))


def coverage(kind: str, sizes: tuple[int, ...], effect: float, repetitions: int = REPETITIONS) -> float:
    return float(np.mean([d.low <= effect <= d.high for d in simulated(kind, sizes, effect, repetitions)]))


def positives(kind: str, sizes: tuple[int, ...], effect: float, repetitions: int = REPETITIONS) -> float:
    return float(np.mean([d.p <= 0.05 for d in simulated(kind, sizes, effect, repetitions)]))


def families(correlation: float, repetitions: int = 300) -> tuple[float, float]:
    """How often one of six metrics without a difference has p, and a corrected p, of at most .05."""
    with pytest.MonkeyPatch.context() as patch:
        # statsmodels collects garbage at each correction, a tenth of a second.
        patch.setattr("gc.collect", int)
        return _families(correlation, repetitions)


def _families(correlation: float, repetitions: int) -> tuple[float, float]:
    chance = np.random.default_rng(2)
    raw = corrected = 0
    for _ in range(repetitions):
        shared = chance.normal(size=(200, 2))
        metrics = {}
        for name in "abcdef":
            right = correlation**0.5 * shared + (1 - correlation) ** 0.5 * chance.normal(size=(200, 2)) > 0
            metrics[name] = difference([Pair(float(a), float(b), str(n // 5)) for n, (a, b) in enumerate(right)])
        after = holm({name: d for name, d in metrics.items() if d is not None})
        raw += any(d.p <= 0.05 for d in after.values())
        corrected += any(d.p_holm <= 0.05 for d in after.values())
    return raw / repetitions, corrected / repetitions


def test_a_difference_is_the_second_arm_minus_the_first_over_cases() -> None:
    result = difference([Pair(1.0, 3.0, "a"), Pair(1.0, 1.0, "b"), Pair(0.0, 4.0, "b")])
    assert result is not None
    assert (result.mean, result.n, result.groups) == (2.0, 3, 2)
    assert result.effect == 2.0 / 2.0


def test_cases_are_paired_in_their_order_and_by_their_groups() -> None:
    cases = [Case(id="a", query="?", group="refunds"), Case(id="b", query="?"), Case(id="c", query="?")]
    pairs = pairs_of(cases, [0, 1, 0], [1, 1, 1])
    assert pairs == [Pair(0, 1, "refunds"), Pair(1, 1, "b"), Pair(0, 1, "c")]
    assert str(difference(pairs)).startswith("+0.667 [") and str(difference(pairs)).endswith("], n=3, 3 groups")


def test_one_group_alone_gives_no_difference() -> None:
    assert difference([]) is None
    assert difference(pairs(0.5, 0.2, groups="aa")) is None


def test_a_case_without_a_score_is_refused() -> None:
    with pytest.raises(InputError, match=r"group 'fees': Pair\(first=0.0, second=nan, group='fees'\) has no score"):
        difference([Pair(0.0, 1.0, "limits"), Pair(0.0, float("nan"), "fees")])


def test_the_interval_of_single_cases_is_that_of_the_paired_t_test() -> None:
    from scipy.stats import ttest_rel

    first, second = [0.1, 0.5, 0.9, 0.4], [0.4, 0.4, 1.0, 0.9]
    result = difference([Pair(a, b, str(n)) for n, (a, b) in enumerate(zip(first, second, strict=True))])
    expected = ttest_rel(second, first).confidence_interval()
    assert result is not None
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))


def test_copies_of_cases_in_their_groups_are_no_more_evidence() -> None:
    deltas = [0.3, -0.2, 0.8, 0.1]
    one, ten = difference(pairs(*deltas)), difference(pairs(*deltas * 10, groups="abcd" * 10))
    assert one is not None and ten is not None
    assert (one.low, one.high, one.p) == pytest.approx((ten.low, ten.high, ten.p))


def test_arms_that_never_differed_may_still_differ() -> None:
    """20 cases, and one each of +1 and -1: variance 2/21, over 22 cases .0658, 2.08 of which are .137."""
    result = difference(pairs(*[0.0] * 20))
    assert result is not None
    assert (result.mean, result.p, result.effect) == (0.0, 1.0, 0.0)
    assert (result.low, result.high) == pytest.approx((-0.137, 0.137), abs=0.0005)


def test_a_loss_with_and_without_passages_leaves_the_interval_of_an_interaction_open() -> None:
    """One -1 made it a point, where one +1 did not."""
    lost = difference([Pair(-1.0, -1.0, "c0"), *(Pair(0.0, 0.0, f"c{n}") for n in range(1, 100))])
    won = difference([Pair(1.0, 1.0, "c0"), *(Pair(0.0, 0.0, f"c{n}") for n in range(1, 100))])
    assert lost is not None and won is not None
    assert (lost.low, lost.high) == (won.low, won.high) and lost.low < 0 < lost.high


def test_answers_of_one_likeness_do_not_differ_by_a_whole_point() -> None:
    result = difference([Pair(0.4, 0.4, f"c{n}") for n in range(20)])
    assert result is not None and (result.low, result.mean, result.high, result.p) == (0.0, 0.0, 0.0, 1.0)


def test_groups_swap_arms_as_a_whole() -> None:
    """Two cases of one group and one of another: totals 3, 1, -1 and -3, of which two are as far from 0 as 3."""
    result = difference(pairs(1.0, 1.0, 1.0, groups="aab"))
    assert result is not None and result.p == 2 / 4


def test_all_flips_are_counted_where_scores_are_few() -> None:
    assert sign_flip(np.ones(40)) == pytest.approx(2 / 2**40)
    assert sign_flip(np.array([0.1, 0.2, -0.3])) == 1.0
    assert sign_flip(np.zeros(3)) == 1.0


def test_drawn_flips_come_close_to_counted_ones_and_to_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = np.random.default_rng(3).normal(0.4, 1, size=12)
    counted = sign_flip(sums)
    monkeypatch.setattr(paired, "COUNTED", 10)
    assert sign_flip(sums, 1) == pytest.approx(counted, abs=0.015)
    assert sign_flip(sums, 1) == sign_flip(sums, 1) != sign_flip(sums, 2)


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (1, 0), (5, 1), (3, 9), (30, 50), (80, 120)])
def test_the_test_of_zeros_and_ones_is_mcnemars_exact_one(only_first: int, only_second: int) -> None:
    from statsmodels.stats.contingency_tables import mcnemar

    cases = [(1.0, 0.0)] * only_first + [(0.0, 1.0)] * only_second + [(1.0, 1.0)] * 7
    result = difference([Pair(a, b, str(n)) for n, (a, b) in enumerate(cases)])
    assert result is not None
    assert result.p == pytest.approx(mcnemar([[7, only_first], [only_second, 0]], exact=True).pvalue)


def test_holm_multiplies_the_smallest_p_by_all_and_never_reorders() -> None:
    assert [d.p_holm for d in holm(found(0.01, 0.04, 0.03)).values()] == pytest.approx([0.03, 0.06, 0.06])
    assert [d.p for d in holm(found(0.01, 0.04)).values()] == [0.01, 0.04]
    assert holm({}) == {}


def test_an_adapter_that_adds_as_much_with_retrieval_as_without_has_no_interaction() -> None:
    same = interaction([0.0, 0.1], [0.3, 0.2], [0.5, 0.5], [0.8, 0.6], ["a", "b"])
    more = interaction([0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 1.0], ["a", "b"])
    assert same is not None and same.mean == pytest.approx(0.0)
    assert more is not None and more.mean == 1.0


def test_an_arm_is_not_worse_if_its_interval_excludes_a_loss_of_the_margin() -> None:
    result = replace(found(0.5)["m0"], low=-0.04, high=0.06)
    assert not_worse(result, 0.05, "higher") and not not_worse(result, 0.04, "higher")
    assert not_worse(result, 0.07, "lower") and not not_worse(result, 0.05, "lower")
    with pytest.raises(InputError, match=r"margin 0.0 of non-inferiority must be above 0"):
        not_worse(result, 0.0, "higher")


@pytest.mark.parametrize("effect", [0.0, 0.1])
@pytest.mark.parametrize("sizes", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize("kind", ["binary", "continuous"])
def test_the_interval_covers_the_difference_95_times_in_100(kind: str, sizes: tuple[int, ...], effect: float) -> None:
    assert 0.93 - SLACK <= coverage(kind, sizes, effect) <= 0.97 + SLACK


@pytest.mark.parametrize("sizes", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize("kind", ["binary", "continuous"])
def test_arms_without_a_difference_are_told_apart_5_times_in_100(kind: str, sizes: tuple[int, ...]) -> None:
    assert positives(kind, sizes, 0.0) <= 0.055 + SLACK


def test_six_metrics_together_are_wrong_5_times_in_100_after_holm() -> None:
    """Two standard errors of 300 repetitions are .025."""
    raw, corrected = families(0.5)
    assert raw > 0.12 and corrected <= 0.055 + 0.025


@pytest.mark.parametrize("kind", ["binary", "continuous"])
def test_the_smallest_detectable_difference_is_found_80_times_in_100(kind: str) -> None:
    """Two standard errors of 1,000 repetitions are .025."""
    effect = float(np.mean([d.smallest_detectable for d in simulated(kind, EQUAL, 0.0)]))
    assert positives(kind, EQUAL, effect) == pytest.approx(0.8, abs=0.05)
