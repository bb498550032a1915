"""May the challenger serve? The rules, and what each says of an evaluation. The shipped rules: `gate.yaml`.

What was not measured fails where it is `INDISPENSABLE`, or where its rule says so.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from eval.metrics import METRICS, Metric, metric
from eval.paired import Difference, not_worse
from eval.report.wording import change, change_interval
from eval.results import Arm, Results, Slice
from finetune.nights import Ruling
from retrieval.errors import InputError

SHIPPED = Path(__file__).parent / "gate.yaml"
WIDEST = 0.2
"""A rule that lets a share lose more than that is no rule."""
LEAST_EARLIER = 40
"""Cases of earlier nights that are judged."""
INDISPENSABLE = frozenset({"grounded", "abstention", "safe"})
"""Metrics that cases must be there for, unless a rule says otherwise."""


def _known(name: str) -> str:
    if all(name != each.name for each in METRICS):
        raise ValueError(f"{name!r} is no metric; they are {', '.join(each.name for each in METRICS)}")
    return name


MetricName = Annotated[str, AfterValidator(_known)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Superior(_Part):
    """The challenger is better by more than `margin`; below 0, by how much it may be worse."""

    metric: MetricName
    margin: float = Field(0.0, ge=-WIDEST)


class NotWorse(_Part):
    """A loss of `margin`, or of that `share` of the champion's mean, is excluded."""

    metric: MetricName
    margin: float | None = Field(None, gt=0)
    share: float | None = Field(None, gt=0, le=0.5)
    missing: Literal["fail", "pass"] | None = None
    """What comes of it where neither has a value; None: `INDISPENSABLE` fail, and the others pass."""

    @model_validator(mode="after")
    def _bounded(self) -> "NotWorse":
        if (self.margin is None) == (self.share is None):
            raise ValueError(f"{self.metric} needs either a margin or a share, not both")
        if self.margin is not None and self.margin > WIDEST and metric(self.metric).unit == "share":
            raise ValueError(f"a margin of {self.margin} lets {self.metric} lose too much; at most {WIDEST}")
        return self


class Absolute(_Part):
    """A figure of the adapter, as `figures` names it, is at most `most`."""

    name: str
    most: float


class Slices(_Part):
    """No part of the cases, `least_cases` of them or more, significantly loses more than `most_loss` of its metric."""

    most_loss: float = Field(gt=0, le=WIDEST)
    least_cases: int = Field(ge=2)


class Complete(_Part):
    """So many cases were asked, and of champion and challenger no larger share failed."""

    most_failed: float = Field(default=0.02, ge=0, le=WIDEST)
    least_cases: int = Field(default=100, ge=1)


class Rules(_Part):
    superior: Superior
    not_worse: tuple[NotWorse, ...] = ()
    absolute: tuple[Absolute, ...] = ()
    slices: Slices | None = None
    complete: Complete = Complete()


def read_rules(path: Path | None = None) -> Rules:
    """The rules in the file `path`; without one the shipped rules.

    Raises:
        InputError: The file is missing, is not YAML, or an entry of it is not what it should be; rules without
            `superior`, or that would let nearly everything through, are refused.
    """
    place = path or SHIPPED
    try:
        loaded: Any = yaml.safe_load(place.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"gate {place} cannot be read: {' '.join(str(error).split())}") from error
    try:
        return Rules.model_validate({} if loaded is None else loaded)
    except ValidationError as error:
        first = error.errors()[0]
        entry = ".".join(str(part) for part in first["loc"])
        raise InputError(f"gate {place} entry {entry!r}: {first['msg']}; see {SHIPPED} for the form") from None


def figures(report: Mapping[str, Any]) -> dict[str, float]:
    """What `absolute` rules can name, from a report of `finetune.measure` as a dict.

    Secrets that were not planted say nothing: then there are no `canaries`.
    """
    found = {"canaries": float(report["memorised"])} if report["canaries"] else {}
    for language, general in report["general"].items():
        of = "" if language == "all" else f" {language}"
        found[f"general perplexity ratio{of}"] = general["perplexity_ratio"]["mean"]
        found[f"general accuracy loss{of}"] = general["accuracy_before"] - general["accuracy_after"]
    if report["held_out"]:
        found["held-out loss change"] = report["held_out"]["after"] - report["held_out"]["before"]
    return found


def judge(rules: Rules, results: Results, adapter: Mapping[str, float]) -> list[Ruling]:
    """What each rule says of the candidate of `results`, whose adapter has these `figures`; `superior` is the first."""
    absolute = [_absolute(rule, adapter) for rule in rules.absolute]
    return [_superior(rules.superior, results), *absolute, *judge_articles(rules, results)]


def judge_articles(rules: Rules, results: Results) -> list[Ruling]:
    """What the rules say where only articles changed: the candidate need not be better, and its adapter is the old one.

    These are all rules but `superior` and `absolute`.
    """
    rulings = [_not_worse(rule, results, rule.missing or _missing(rule)) for rule in rules.not_worse]
    rulings += _slices(rules.slices, results) if rules.slices else []
    return rulings + _complete(rules.complete, results)


def judge_earlier(rules: Rules, name: str, results: Results) -> list[Ruling]:
    """What the `not_worse` rules say of the cases of an earlier night, `name`: was something forgotten?

    Such cases may lack what a metric needs, so its absence passes unless the rule says otherwise; but not if
    every metric is absent. Under `LEAST_EARLIER` of them no loss could be excluded, and nothing would ever pass: they
    are not judged yet.
    """
    count = int(results.cases["n"])
    if count < LEAST_EARLIER:
        reason = f"{name}: {count} cases are too few to judge what was forgotten; from {LEAST_EARLIER} on they are"
        return [_ruling(f"not worse, {name}", "any", None, 0.0, True, reason)]
    rulings = [_not_worse(rule, results, rule.missing or "pass", f"not worse, {name}") for rule in rules.not_worse]
    if all(ruling.number is None for ruling in rulings):
        reason = f"{name}: nothing that a rule asks for was measured in both"
        rulings.append(_ruling(f"not worse, {name}", "any", None, 0.0, False, reason))
    return rulings


def verdict(rulings: Sequence[Ruling]) -> tuple[bool, list[str]]:
    """Whether the challenger may serve, and why: all that it failed, or the first that it passed."""
    failed = [ruling.reason for ruling in rulings if not ruling.passed]
    if all(ruling.low is None for ruling in rulings):
        failed.append("nothing compares the challenger with the champion")
    return not failed, failed or [rulings[0].reason]


def _missing(rule: NotWorse) -> Literal["fail", "pass"]:
    return "fail" if rule.metric in INDISPENSABLE else "pass"


def _superior(rule: Superior, results: Results) -> Ruling:
    of = metric(rule.metric)
    bound = rule.margin if of.better == "higher" else -rule.margin
    found = _difference(results, rule.metric)
    if found is None:
        reason = f"{rule.metric}: too few cases have a value in both, so nothing shows that it is better"
        return _ruling("superior", rule.metric, None, bound, False, reason)
    if of.better == "higher":
        passed, side = found.low > bound, "above"
    else:
        passed, side = found.high < bound, "below"
    reason = f"{_told(found, of)}: {'' if passed else 'not '}{side} {_size(bound, of)}"
    return _ruling("superior", rule.metric, found, bound, passed, reason)


def _not_worse(rule: NotWorse, results: Results, missing: Literal["fail", "pass"], name: str = "not worse") -> Ruling:
    of = metric(rule.metric)
    found = _difference(results, rule.metric)
    means = {arm.name: arm.metrics[rule.metric].mean for arm in _arms(results) if rule.metric in arm.metrics}
    before = means.get(results.baseline, 0.0)
    margin = rule.margin if rule.margin is not None else (rule.share or 0.0) * before
    bound = -margin if of.better == "higher" else margin
    if found is None and not means:
        reason = f"{rule.metric}: neither has a value, which {'may' if missing == 'pass' else 'must not'} be"
        return _ruling(name, rule.metric, None, bound, missing == "pass", reason)
    if found is None:
        reason = f"{rule.metric}: too few cases have a value in both to exclude a loss"
        return _ruling(name, rule.metric, None, bound, False, reason)
    if not margin > 0:
        reason = f"{rule.metric}: no share of the champion's mean, {before:.4g}, is a margin; give the rule one"
        return _ruling(name, rule.metric, found, bound, False, reason)
    passed = not_worse(found, margin, of.better)
    reason = f"{_told(found, of)}: a loss of {_size(margin, of)} is {'' if passed else 'not '}excluded"
    return _ruling(name, rule.metric, found, bound, passed, reason)


def _absolute(rule: Absolute, adapter: Mapping[str, float]) -> Ruling:
    number = adapter.get(rule.name)
    if number is None:
        reason = f"{rule.name} was not measured; measured: {', '.join(adapter) or 'nothing'}"
        return Ruling("absolute", rule.name, None, None, None, rule.most, False, reason)
    passed = number <= rule.most
    reason = f"{rule.name} {number:.4g}: {'at most' if passed else 'more than'} {rule.most:.4g}"
    return Ruling("absolute", rule.name, number, None, None, rule.most, passed, reason)


def _slices(rule: Slices, results: Results) -> list[Ruling]:
    """A ruling for each part that loses too much; if none does, one for the part that gains least."""
    judged = [part for part in results.slices if part.by != "route" and part.n >= rule.least_cases]
    if not judged:
        reason = f"no slice, language or topic has {rule.least_cases} cases"
        return [_ruling("slices", results.primary, None, -rule.most_loss, False, reason)]
    judged.sort(key=lambda part: _gain(part, results))
    rulings = [_slice(rule, part, results) for part in judged]
    return [ruling for ruling in rulings if not ruling.passed] or rulings[:1]


def _slice(rule: Slices, part: Slice, results: Results) -> Ruling:
    """By the end of the interval that is best for the candidate; by the mean where one group has no interval."""
    of, found, gain = metric(part.metric), part.difference, _gain(part, results)
    better = 1 if of.better == "higher" else -1
    best = gain if found is None else max(better * found.low, better * found.high)
    passed = best >= -rule.most_loss
    told = _told(found, of) if found else f"{of.name} {change(better * gain, of, 'en')}, one group only"
    reason = f"{part.by} {part.value}, {part.n} cases: {told}: "
    reason += f"{'not surely a loss' if passed else 'a loss'} of more than {_size(rule.most_loss, of)}"
    low, high = (found.low, found.high) if found else (None, None)
    return Ruling("slices", of.name, better * gain, low, high, -better * rule.most_loss, passed, reason)


def _gain(part: Slice, results: Results) -> float:
    """Above 0 where the candidate is better."""
    mean = part.arms[results.candidate] - part.arms[results.baseline]
    return mean if metric(part.metric).better == "higher" else -mean


def _complete(rule: Complete, results: Results) -> list[Ruling]:
    cases, arms = int(results.cases.get("n", 0)), _arms(results)
    enough = cases >= rule.least_cases
    reason = f"{cases} cases: {'at least' if enough else 'fewer than'} {rule.least_cases}"
    rulings = [Ruling("complete", "cases", float(cases), None, None, rule.least_cases, enough, reason)]
    if len(arms) < 2 or not cases:
        reason = "champion and challenger were not both asked"
        return [*rulings, Ruling("complete", "failed", None, None, None, rule.most_failed, False, reason)]
    failed = max(arm.failed for arm in arms) / cases
    passed = failed <= rule.most_failed
    reason = f"{failed:.1%} of the cases got no answer: {'at most' if passed else 'more than'} {rule.most_failed:.1%}"
    return [*rulings, Ruling("complete", "failed", failed, None, None, rule.most_failed, passed, reason)]


def _arms(results: Results) -> list[Arm]:
    return [arm for arm in results.arms if arm.name in (results.baseline, results.candidate)]


def _difference(results: Results, name: str) -> Difference | None:
    """Candidate minus baseline."""
    asked = (results.baseline, results.candidate)
    for comparison in results.comparisons:
        if (comparison.first, comparison.second) == asked:
            return comparison.differences.get(name)
    return None


def _ruling(rule: str, name: str, found: Difference | None, bound: float, passed: bool, reason: str) -> Ruling:
    mean, low, high = (found.mean, found.low, found.high) if found else (None, None, None)
    return Ruling(rule, name, mean, low, high, bound, passed, reason)


def _told(found: Difference, of: Metric) -> str:
    return f"{of.name} {change(found.mean, of, 'en')} [{change_interval(found, of, 'en')}]"


def _size(number: float, of: Metric) -> str:
    return change(number, of, "en", signed=number < 0) if number else "0"
