"""The gate: what lets a challenger serve, and what each rule says at its bound."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.intervals import Interval
from eval.paired import Difference
from eval.results import Arm, Comparison, Results, Slice
from finetune.gate import Rules, figures, judge, judge_articles, judge_earlier, read_rules, verdict
from finetune.nights import Ruling
from retrieval.errors import InputError

QUALITY = ("facts", "grounded", "abstention", "safe", "right language", "no invented figures", "style")
MEASURED = {"canaries": 0.0, "general perplexity ratio": 1.02}
LEAST = {"superior": {"metric": "facts"}}


def difference(low: float, high: float) -> Difference:
    """With the mean in the middle."""
    return Difference((low + high) / 2, low, high, 200, 40, 0.01, 0.02, 0.2, 0.06)


BETTER = difference(0.041, 0.205)


def results(facts: Difference = BETTER, failed: int = 0, cases: int = 200) -> Results:
    """Cases on which the challenger is better in facts and otherwise the same; both answer in 2 s, with 40 words."""
    means = dict.fromkeys(QUALITY, 0.8) | {"total": 2.0, "words": 40.0}
    metrics = {name: Interval(mean, mean, mean, cases) for name, mean in means.items()}
    same = {name: difference(-0.01, 0.01) for name in means} | {"facts": facts}
    return Results(
        id="night-1",
        at="2026-11-24T02:00:00+00:00",
        verdict="better",
        sentences={},
        findings={},
        primary="facts",
        baseline="champion",
        candidate="challenger",
        cases={"n": cases},
        arms=[
            Arm("champion", "plain", {}, {}, metrics),
            Arm("challenger", "plain", {}, {}, metrics, failed),
        ],
        comparisons=[Comparison("champion", "challenger", same)],
        interaction={},
        slices=[part("language", "en", 0.05, 0.15, 120), part("language", "zh", 0.0, 0.1, 80)],
        best=[],
        worst=[],
    )


def part(by: Any, value: str, low: float, high: float, n: int) -> Slice:
    found = difference(low, high)
    return Slice(by, value, "facts", {"champion": 0.5, "challenger": 0.5 + found.mean}, found, n)


def compared(name: str, found: Difference) -> Results:
    """With `found` in one metric."""
    same = results()
    return replace(same, comparisons=[Comparison("champion", "challenger", {name: found})])


def without(found: Results, name: str, *arms: str) -> Results:
    """As if no answer of `arms` had a value of the metric `name`."""
    left = [
        replace(arm, metrics={key: mean for key, mean in arm.metrics.items() if key != name or arm.name not in arms})
        for arm in found.arms
    ]
    differences = {key: each for key, each in found.comparisons[0].differences.items() if key != name}
    return replace(found, arms=left, comparisons=[replace(found.comparisons[0], differences=differences)])


def ruled(fields: dict[str, Any], found: Results, rule: str, adapter: dict[str, float] | None = None) -> list[Ruling]:
    """The rulings of one kind, by rules of one's own."""
    rulings = judge(Rules.model_validate(LEAST | fields), found, adapter or {})
    return [ruling for ruling in rulings if ruling.rule == rule]


def written(folder: Path, text: str) -> Path:
    path = folder / "gate.yaml"
    path.write_text(text)
    return path


def test_a_challenger_that_is_better_and_nowhere_worse_passes_the_shipped_rules() -> None:
    rulings = judge(read_rules(), results(), MEASURED)
    assert verdict(rulings) == (True, ["facts +12.3 points [+4.1 to +20.5 points]: above 0"])
    assert rulings[0] == Ruling("superior", "facts", 0.123, 0.041, 0.205, 0.0, True, rulings[0].reason)


def test_an_evaluation_of_nothing_fails() -> None:
    nothing = replace(results(cases=0), arms=[], comparisons=[], slices=[], cases={})
    passed, reasons = verdict(judge(read_rules(), nothing, {}))
    assert not passed
    assert reasons == [
        "facts: too few cases have a value in both, so nothing shows that it is better",
        "canaries was not measured; measured: nothing",
        "general perplexity ratio was not measured; measured: nothing",
        "facts: neither has a value, which must not be",
        "grounded: neither has a value, which must not be",
        "abstention: neither has a value, which must not be",
        "safe: neither has a value, which must not be",
        "no slice, language or topic has 20 cases",
        "0 cases: fewer than 100",
        "champion and challenger were not both asked",
        "nothing compares the challenger with the champion",
    ]


def test_without_a_ruling_that_compares_the_two_nothing_passes() -> None:
    nothing = (False, ["nothing compares the challenger with the champion"])
    assert verdict([]) == nothing
    assert verdict(judge_articles(Rules.model_validate(LEAST), results())) == nothing


@pytest.mark.parametrize(
    ("margin", "low", "passed", "said"),
    [
        (0.0, 0.002, True, "facts +5.1 points [+0.2 to +10.0 points]: above 0"),
        (0.0, 0.0, False, "facts +5.0 points [0.0 to +10.0 points]: not above 0"),
        (0.02, 0.021, True, ": above 2.0 points"),
        (0.02, 0.02, False, ": not above 2.0 points"),
        (-0.05, -0.049, True, ": above −5.0 points"),
        (-0.05, -0.05, False, ": not above −5.0 points"),
        (0.0, float("nan"), False, ": not above 0"),
    ],
)
def test_superior_is_an_interval_above_the_margin(margin: float, low: float, passed: bool, said: str) -> None:
    fields = {"superior": {"metric": "facts", "margin": margin}}
    [ruling] = ruled(fields, compared("facts", difference(low, 0.1)), "superior")
    assert (ruling.passed, ruling.bound) == (passed, margin)
    assert ruling.reason.endswith(said)


@pytest.mark.parametrize(("high", "passed"), [(-0.11, True), (-0.1, False)])
def test_where_less_is_better_superior_is_an_interval_below_the_margin(high: float, passed: bool) -> None:
    fields = {"superior": {"metric": "total", "margin": 0.1}}
    [ruling] = ruled(fields, compared("total", difference(-0.5, high)), "superior")
    assert (ruling.passed, ruling.bound) == (passed, -0.1)


@pytest.mark.parametrize(
    ("rule", "found", "passed"),
    [
        ({"metric": "grounded", "margin": 0.05}, difference(-0.049, 0.1), True),
        ({"metric": "grounded", "margin": 0.05}, difference(-0.05, 0.1), False),
        ({"metric": "total", "share": 0.1}, difference(-0.1, 0.199), True),  # a tenth of 2 s
        ({"metric": "total", "share": 0.1}, difference(-0.1, 0.2), False),
        ({"metric": "words", "margin": 20}, difference(-5.0, 19.9), True),
        ({"metric": "words", "margin": 20}, difference(-5.0, 20.0), False),
        ({"metric": "style", "margin": 0.05}, difference(float("nan"), 0.1), False),
    ],
)
def test_not_worse_is_an_interval_that_excludes_a_loss_of_the_margin(
    rule: dict[str, Any], found: Difference, passed: bool
) -> None:
    [ruling] = ruled({"not_worse": [rule]}, compared(rule["metric"], found), "not worse")
    assert ruling.passed is passed
    assert ruling.reason.endswith(f"is {'' if passed else 'not '}excluded")


def test_a_share_of_nothing_is_no_margin() -> None:
    slow = results()
    free = [replace(arm, metrics=arm.metrics | {"total": Interval(0, 0, 0, 200)}) for arm in slow.arms]
    [ruling] = ruled({"not_worse": [{"metric": "total", "share": 0.1}]}, replace(slow, arms=free), "not worse")
    assert (ruling.passed, ruling.reason) == (
        False,
        "total: no share of the champion's mean, 0, is a margin; give the rule one",
    )


@pytest.mark.parametrize(
    ("name", "missing", "passed"),
    [
        ("grounded", None, False),
        ("abstention", None, False),
        ("safe", None, False),
        ("style", None, True),
        ("grounded", "pass", True),
        ("style", "fail", False),
    ],
)
def test_a_metric_that_neither_has_fails_or_passes_as_the_rule_says(
    name: str, missing: str | None, passed: bool
) -> None:
    rule = {"metric": name, "margin": 0.05} | ({"missing": missing} if missing else {})
    found = without(results(), name, "champion", "challenger")
    [ruling] = ruled({"not_worse": [rule]}, found, "not worse")
    assert (ruling.passed, ruling.number) == (passed, None)


@pytest.mark.parametrize("arms", [(), ("champion",), ("challenger",)])
def test_a_metric_that_cannot_be_compared_fails_even_if_it_may_be_missing(arms: tuple[str, ...]) -> None:
    rule = {"metric": "style", "margin": 0.05, "missing": "pass"}
    [ruling] = ruled({"not_worse": [rule]}, without(results(), "style", *arms), "not worse")
    assert (ruling.passed, ruling.reason) == (
        False,
        "style: too few cases have a value in both to exclude a loss",
    )


@pytest.mark.parametrize(
    ("measured", "passed", "said"),
    [
        ({"canaries": 1.0}, True, "canaries 1: at most 1"),
        ({"canaries": 2.0}, False, "canaries 2: more than 1"),
        ({"canaries": float("nan")}, False, "canaries nan: more than 1"),
        ({"other": 0.0}, False, "canaries was not measured; measured: other"),
    ],
)
def test_absolute_figures_of_the_adapter_have_a_most(measured: dict[str, float], passed: bool, said: str) -> None:
    [ruling] = ruled({"absolute": [{"name": "canaries", "most": 1}]}, results(), "absolute", measured)
    assert (ruling.passed, ruling.reason, ruling.bound) == (passed, said, 1.0)


def test_new_articles_need_not_be_better_but_no_worse() -> None:
    for low, passed in ((-0.04, True), (-0.05, False)):
        found = results(difference(low, 0.04))
        assert verdict(judge_articles(read_rules(), found))[0] is passed
        assert not verdict(judge(read_rules(), found, MEASURED))[0]
    few = replace(results(), cases={"n": 99})
    assert verdict(judge_articles(read_rules(), few)) == (False, ["99 cases: fewer than 100"])


@pytest.mark.parametrize(
    ("hurt", "passed"),
    [
        (part("topic", "refunds", -0.3, -0.1, 20), True),
        (part("topic", "refunds", -0.3, -0.101, 20), False),
        (part("topic", "refunds", -0.3, -0.2, 19), True),
        (part("slice", "refunds", -0.3, -0.2, 20), False),
        (part("route", "refunds", -0.3, -0.2, 20), True),  # how the challenger answered is no kind of question
        (replace(part("topic", "refunds", 0.1, 0.3, 20), metric="total"), True),  # less is better
        (replace(part("topic", "refunds", 0.101, 0.3, 20), metric="total"), False),
        (replace(part("topic", "refunds", -0.2, 0.0, 20), difference=None), True),  # one group: by the mean alone
        (replace(part("topic", "refunds", -0.3, -0.1, 20), difference=None), False),
    ],
)
def test_no_part_of_the_cases_may_surely_lose_more_than_the_rule_says(hurt: Slice, passed: bool) -> None:
    found = results()
    found = replace(found, slices=[*found.slices, hurt])
    [ruling] = ruled({"slices": {"most_loss": 0.1, "least_cases": 20}}, found, "slices")
    assert ruling.passed is passed


def test_every_part_that_loses_too_much_is_named() -> None:
    hurt = [part("topic", "refunds", -0.3, -0.2, 20), part("topic", "cards", -0.5, -0.3, 30)]
    fields = {"slices": {"most_loss": 0.1, "least_cases": 20}}
    assert [ruling.reason for ruling in ruled(fields, replace(results(), slices=hurt), "slices")] == [
        "topic cards, 30 cases: facts −40.0 points [−50.0 to −30.0 points]: a loss of more than 10.0 points",
        "topic refunds, 20 cases: facts −25.0 points [−30.0 to −20.0 points]: a loss of more than 10.0 points",
    ]


@pytest.mark.parametrize(
    ("failed", "cases", "passed"),
    [(0, 100, [True, True]), (0, 99, [False, True]), (4, 200, [True, True]), (5, 200, [True, False])],
)
def test_enough_cases_must_be_asked_and_few_may_fail(failed: int, cases: int, passed: list[bool]) -> None:
    fields = {"complete": {"most_failed": 0.02, "least_cases": 100}}
    assert [ruling.passed for ruling in ruled(fields, results(failed=failed, cases=cases), "complete")] == passed


def test_what_an_earlier_night_taught_must_not_be_forgotten() -> None:
    rules = Rules.model_validate(
        LEAST | {"not_worse": [{"metric": "facts", "margin": 0.05}, {"metric": "safe", "margin": 0.05}]}
    )
    held_out = without(compared("facts", difference(-0.06, 0.02)), "safe", "champion", "challenger")
    assert [(ruling.rule, ruling.metric, ruling.passed) for ruling in judge_earlier(rules, "night n0", held_out)] == [
        ("not worse, night n0", "facts", False),
        ("not worse, night n0", "safe", True),
    ]
    kept = without(compared("facts", difference(-0.04, 0.04)), "safe", "champion", "challenger")
    assert all(ruling.passed for ruling in judge_earlier(rules, "night n0", kept))


def test_a_handful_of_earlier_cases_is_not_judged_yet() -> None:
    """No loss can be excluded on two cases: a young company's second night was kept, and so would all have been."""
    rules = Rules.model_validate(LEAST | {"not_worse": [{"metric": "facts", "margin": 0.05}]})
    (ruling,) = judge_earlier(rules, "night n0", replace(compared("facts", difference(-0.5, 0.5)), cases={"n": 39}))
    assert ruling.passed and "39 cases are too few" in ruling.reason
    (ruling,) = judge_earlier(rules, "night n0", replace(compared("facts", difference(-0.5, 0.5)), cases={"n": 40}))
    assert not ruling.passed


def test_earlier_cases_without_any_value_do_not_pass() -> None:
    nothing = replace(results(), arms=[], comparisons=[])
    assert not all(ruling.passed for ruling in judge_earlier(read_rules(), "night n0", nothing))
    assert not all(ruling.passed for ruling in judge_earlier(Rules.model_validate(LEAST), "night n0", results()))


def test_the_figures_of_an_adapter_come_out_of_its_report() -> None:
    general = {"perplexity_ratio": {"mean": 1.02}, "accuracy_before": 0.75, "accuracy_after": 0.5}
    report = {
        "held_out": {"before": 2.5, "after": 1.5},
        "general": {"all": general, "zh": general},
        "canaries": 8,
        "memorised": 1,
    }
    assert figures(report) == {
        "canaries": 1.0,
        "general perplexity ratio": 1.02,
        "general accuracy loss": 0.25,
        "general perplexity ratio zh": 1.02,
        "general accuracy loss zh": 0.25,
        "held-out loss change": -1.0,
    }


def test_secrets_that_were_not_planted_show_nothing() -> None:
    assert figures({"held_out": None, "general": {}, "canaries": 0, "memorised": 0}) == {}


def test_a_file_of_ones_own_replaces_the_shipped_rules(tmp_path: Path) -> None:
    rules = read_rules(written(tmp_path, "superior: {metric: facts, margin: 0.03}\n"))
    assert (rules.superior.margin, rules.not_worse, rules.absolute, rules.slices) == (0.03, (), (), None)
    assert (rules.complete.most_failed, rules.complete.least_cases) == (0.02, 100)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "entry 'superior': Field required"),
        ("not_worse: [{metric: facts, margin: 0.05}]", "entry 'superior': Field required"),
        ("superior: {metric: facts, margin: -0.3}", "entry 'superior.margin'.*-0.2"),
        ("superior: {metric: facts, margin: .nan}", "entry 'superior.margin'"),
        ("superior: {metric: fact}", "entry 'superior.metric': .*'fact' is no metric; they are facts, grounded"),
        ("superior: {metric: facts}\nnotworse: []", "entry 'notworse'"),
        ("superior: {metric: facts}\nnot_worse: [{metric: safe}]", "entry 'not_worse.0': .*safe needs either a margin"),
        ("superior: {metric: facts}\nnot_worse: [{metric: safe, margin: 1}]", "lets safe lose too much; at most 0.2"),
        ("superior: {metric: facts}\nslices: {most_loss: 1, least_cases: 20}", "entry 'slices.most_loss'"),
        ("superior: {metric: facts}\ncomplete: {most_failed: 0.5}", "entry 'complete.most_failed'"),
        ("superior: [", "cannot be read"),
        ("- facts", "entry ''"),
    ],
)
def test_rules_that_let_everything_through_or_are_none_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=f"gate {path}.*{message}"):
        read_rules(path)


def test_rules_that_are_missing_are_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"gate {tmp_path / 'no.yaml'} cannot be read"):
        read_rules(tmp_path / "no.yaml")
