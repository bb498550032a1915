"""From scored answers to what they say: means, paired differences, slices, the verdict, the cases worth reading."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from eval.answers import Answer
from eval.cases import Case
from eval.intervals import Interval, clustered_mean
from eval.metrics import METRICS, PRIMARY, Score, metric
from eval.paired import Difference, Pair, difference, holm, interaction, not_worse
from eval.results import Arm, Comparison, Curve, Example, Results, Shown, Slice, Verdict
from retrieval.language import Language, language_of

EXAMPLES = 6
"""Best and worst cases that are shown."""
MOST_FAILED = 0.02
"""Of the cases: with more of them unanswered there is no verdict."""
COSTS = frozenset({"words", "first token", "total", "between tokens", "answer tokens", "CPU", "memory"})
"""What an answer takes is told beside the verdict, and decides nothing."""
FAMILY = tuple(each.name for each in METRICS if each.name not in COSTS)
"""The metrics that Holm's correction is over."""


@dataclass(frozen=True)
class Scored:
    """An answer and what the scorers say of it."""

    answer: Answer
    scores: dict[str, Score]

    def value(self, name: str) -> float | None:
        score = self.scores.get(name)
        return score.value if score else None


Answers = Mapping[str, Mapping[str, Scored]]
"""By arm and case."""


def summary(
    name: str,
    at: str,
    cases: Sequence[Case],
    scored: Answers,
    tried: Mapping[str, dict[str, float]],
    failed: Sequence[tuple[str, str]] = (),
    about: str = "",
    files: Mapping[str, str] | None = None,
    lineage: Mapping[str, Any] | None = None,
    training: Sequence[Curve] = (),
    judge: dict[str, Any] | None = None,
) -> Results:
    """What the answers of several arms come to; the first arm is the baseline, the second the candidate.

    `failed` names cases and arms without an answer; they are left out of every comparison.
    """
    arms = list(scored)
    baseline, candidate = arms[:2]
    pairs = [(baseline, candidate), *((baseline, other) for other in arms[2:])]
    pairs += [("base", "lora")] if {"base", "lora"} <= set(arms) and baseline != "base" else []
    comparisons = [Comparison(first, second, _differences(cases, scored, first, second)) for first, second in pairs]
    main = comparisons[0].differences
    lost = Counter(arm for _, arm in failed)
    incomplete = PRIMARY not in main or max(lost[baseline], lost[candidate]) > MOST_FAILED * len(cases)
    slices = _slices(cases, scored, baseline, candidate)
    verdict = _verdict(main, incomplete)
    best, worst = _examples(cases, scored, baseline, candidate)
    return Results(
        id=name,
        at=at,
        verdict=verdict,
        sentences={
            language: _sentence(verdict, scored, main, baseline, candidate, language) for language in _LANGUAGES
        },
        findings={language: _findings(main, slices, lost, cases, about, language) for language in _LANGUAGES},
        primary=PRIMARY,
        baseline=baseline,
        candidate=candidate,
        cases={
            "files": dict(files or {}),
            "n": len(cases),
            "groups": len({_group(case) for case in cases}),
            "languages": dict(Counter(_language(case) for case in cases)),
            "slices": dict(Counter(case.slice or "-" for case in cases)),
        },
        arms=[_arm(arm, cases, scored[arm], tried.get(arm, {}), lost[arm]) for arm in arms],
        comparisons=comparisons,
        interaction=_interaction(cases, scored),
        slices=slices,
        best=best,
        worst=worst,
        training=list(training),
        lineage=dict(lineage or {}),
        judge=judge,
    )


_LANGUAGES: tuple[Language, ...] = ("en", "zh")


def _group(case: Case) -> str:
    return case.group or case.id


def _language(case: Case) -> Language:
    return case.lang or language_of(case.conversation()[-1]["content"])


def _pairs(cases: Sequence[Case], scored: Answers, first: str, second: str, name: str) -> list[Pair]:
    found = []
    for case in cases:
        if case.id in scored[first] and case.id in scored[second]:
            one, other = scored[first][case.id].value(name), scored[second][case.id].value(name)
            if one is not None and other is not None:
                found.append(Pair(one, other, _group(case)))
    return found


def _differences(cases: Sequence[Case], scored: Answers, first: str, second: str) -> dict[str, Difference]:
    """Of every metric that both arms have; quality corrected by Holm, costs as they are."""
    found = {}
    for each in METRICS:
        pairs = _pairs(cases, scored, first, second, each.name)
        if pairs and (of_metric := difference(pairs)):
            found[each.name] = of_metric
    return found | holm({name: found[name] for name in FAMILY if name in found})


def _interaction(cases: Sequence[Case], scored: Answers) -> dict[str, Difference]:
    four = ("base", "lora", "rag", "rag+lora")
    if not set(four) <= set(scored):
        return {}
    found = {}
    for name in FAMILY:
        values = [
            ([scored[arm][case.id].value(name) for arm in four], _group(case))
            for case in cases
            if all(case.id in scored[arm] for arm in four)
        ]
        whole = [(row, group) for row, group in values if None not in row]
        base, lora, rag, rag_lora = ([float(row[i] or 0) for row, _ in whole] for i in range(4))
        if whole and (of_metric := interaction(base, lora, rag, rag_lora, [group for _, group in whole])):
            found[name] = of_metric
    return found


def _arm(name: str, cases: Sequence[Case], answers: Mapping[str, Scored], tried: dict[str, float], failed: int) -> Arm:
    metrics: dict[str, Interval] = {}
    for each in METRICS:
        groups: dict[str, list[float]] = {}
        for case in cases:
            value = answers[case.id].value(each.name) if case.id in answers else None
            if value is not None:
                groups.setdefault(_group(case), []).append(value)
        if groups:
            metrics[each.name] = clustered_mean(list(groups.values()))
    return Arm(
        name=name,
        rag=name in ("rag", "rag+lora", "quoted"),
        lora="lora" in name,
        prompt=max(tried, key=tried.__getitem__) if tried else "plain",
        tried=tried,
        routes=dict(Counter(each.answer.route for each in answers.values())),
        metrics=metrics,
        failed=failed,
    )


def _slices(cases: Sequence[Case], scored: Answers, baseline: str, candidate: str) -> list[Slice]:
    """The primary metric by what the cases try, how the candidate answered, language and topic."""
    kinds: dict[Literal["slice", "route", "language", "topic"], Callable[[Case], str | None]] = {
        "slice": lambda case: case.slice,
        "route": lambda case: scored[candidate][case.id].answer.route,
        "language": _language,
        "topic": lambda case: case.topic,
    }
    both = [case for case in cases if case.id in scored[baseline] and case.id in scored[candidate]]
    found = []
    for by, key in kinds.items():
        for value in sorted({named for case in both if (named := key(case))}):
            some = [case for case in both if key(case) == value]
            pairs = _pairs(some, scored, baseline, candidate, PRIMARY)
            if pairs:
                means = {
                    baseline: sum(pair.first for pair in pairs) / len(pairs),
                    candidate: sum(pair.second for pair in pairs) / len(pairs),
                }
                found.append(Slice(by, value, means, difference(pairs), len(pairs)))
    return found


def _examples(
    cases: Sequence[Case], scored: Answers, baseline: str, candidate: str
) -> tuple[list[Example], list[Example]]:
    """Where the candidate gains most, and where it loses most: in the primary metric, then in all others together."""
    gains = {}
    for case in cases:
        if case.id in scored[baseline] and case.id in scored[candidate]:
            before, after = scored[baseline][case.id], scored[candidate][case.id]
            by_metric = {name: _gain(before, after, name) for name in FAMILY}
            gains[case.id] = (by_metric[PRIMARY], sum(by_metric.values()))
    ordered = sorted((case for case in cases if case.id in gains), key=lambda case: gains[case.id])
    best = [case for case in reversed(ordered) if gains[case.id] > (0, 0)][:EXAMPLES]
    worst = [case for case in ordered if gains[case.id] < (0, 0)][:EXAMPLES]
    return (
        [_example(case, scored, baseline, candidate) for case in best],
        [_example(case, scored, baseline, candidate) for case in worst],
    )


def _gain(before: Scored, after: Scored, name: str) -> float:
    one, other = before.value(name), after.value(name)
    if one is None or other is None or metric(name).unit != "share":
        return 0.0
    return other - one


def _example(case: Case, scored: Answers, baseline: str, candidate: str) -> Example:
    return Example(
        case=case.id,
        asked=case.conversation(),
        reference=case.reference,
        passages=[asdict(shown) for shown in scored[candidate][case.id].answer.passages],
        answers={
            arm: Shown(
                text=scored[arm][case.id].answer.text,
                route=scored[arm][case.id].answer.route,
                scores={name: each.value for name, each in scored[arm][case.id].scores.items()},
                evidence={name: each.evidence for name, each in scored[arm][case.id].scores.items() if each.evidence},
            )
            for arm in (baseline, candidate)
        },
    )


def _verdict(main: Mapping[str, Difference], incomplete: bool) -> Verdict:
    """By the primary metric's interval; a candidate that is better in it and surely worse elsewhere is `mixed`."""
    if incomplete:
        return "incomplete"
    primary = main[PRIMARY]
    if primary.high < 0:
        return "worse"
    losses = [name for name in FAMILY if name in main and _is_loss(name, main[name])]
    if primary.low > 0:
        return "mixed" if losses else "better"
    return "worse" if losses else "no difference"


def _is_loss(name: str, found: Difference) -> bool:
    """Significantly worse after Holm's correction, whatever direction is the better one."""
    worse = found.high < 0 if metric(name).better == "higher" else found.low > 0
    return worse and found.p_holm < 0.05


def _is_gain(name: str, found: Difference) -> bool:
    better = found.low > 0 if metric(name).better == "higher" else found.high < 0
    return better and found.p_holm < 0.05


def _sentence(
    verdict: Verdict,
    scored: Answers,
    main: Mapping[str, Difference],
    baseline: str,
    candidate: str,
    language: Language,
) -> str:
    texts = _VERDICTS[language]
    if verdict == "incomplete":
        return texts["incomplete"]
    primary = main[PRIMARY]
    losses = [metric(name).label[language] for name in FAMILY if name in main and _is_loss(name, main[name])]
    separator = ", " if language == "en" else "、"
    return texts[verdict].format(
        candidate=candidate,
        baseline=baseline,
        points=f"{100 * primary.mean:+.1f}",
        low=f"{100 * primary.low:+.1f}",
        high=f"{100 * primary.high:+.1f}",
        n=primary.n,
        detectable=f"{100 * primary.smallest_detectable:.0f}",
        losses=separator.join(losses),
    )


def _findings(
    main: Mapping[str, Difference],
    slices: Sequence[Slice],
    lost: Mapping[str, int],
    cases: Sequence[Case],
    about: str,
    language: Language,
) -> list[str]:
    texts = _FINDINGS[language]
    separator = ", " if language == "en" else "、"

    def named(names: Sequence[str]) -> str:
        return separator.join(
            f"{metric(name).label[language]} {_told(name, main[name].mean)} [{_told(name, main[name].low)}, "
            f"{_told(name, main[name].high)}]"
            for name in names
        )

    quality = [name for name in FAMILY if name in main and name != PRIMARY]
    gains = [name for name in quality if _is_gain(name, main[name])]
    losses = [name for name in quality if _is_loss(name, main[name])]
    rest = [name for name in quality if name not in (*gains, *losses)]
    equal = [name for name in rest if not_worse(main[name], metric(name).margin, metric(name).better)]
    unknown = [name for name in rest if name not in equal]
    found = [about] if about else []
    found += [texts["losses"].format(named(losses))] if losses else []
    found += [texts["gains"].format(named(gains))] if gains else []
    found += [texts["equal"].format(named(equal))] if equal else []
    found += [texts["unknown"].format(named(unknown))] if unknown else []
    hurt = [each for each in slices if each.by == "slice" and each.difference and each.difference.high < 0]
    found += [texts["hurt"].format(separator.join(f"{each.value} (n={each.n})" for each in hurt))] if hurt else []
    costs = [name for name in ("first token", "total", "CPU", "memory", "answer tokens") if name in main]
    found += [texts["costs"].format(named(costs))] if costs else []
    found += [texts["failed"].format(arm=arm, count=count, n=len(cases)) for arm, count in lost.items() if count]
    return found


def _told(name: str, value: float) -> str:
    unit = metric(name).unit
    if unit == "share":
        return f"{100 * value:+.1f}"
    return f"{value / 1e6:+.0f} MB" if unit == "bytes" else f"{value:+.2f} s" if unit == "s" else f"{value:+.2f}"


_VERDICTS: dict[Language, dict[str, str]] = {
    "en": {
        "better": "{candidate} is better than {baseline}: {points} points of answers with every fact "
        "[{low}, {high}], n={n}; in nothing else is it significantly worse.",
        "mixed": "{candidate} has every fact more often than {baseline}, by {points} points [{low}, {high}], n={n}, "
        "but is significantly worse in: {losses}.",
        "worse": "{candidate} is worse than {baseline}: {points} points of answers with every fact [{low}, {high}], "
        "n={n}. {losses}",
        "no difference": "No difference between {candidate} and {baseline} is shown: {points} points of answers with "
        "every fact [{low}, {high}], n={n}; one of {detectable} points would probably have been seen.",
        "incomplete": "No verdict: too few cases were answered by both arms, or none has facts to look for.",
    },
    "zh": {
        "better": "{candidate} 优于 {baseline}：事实齐全的回答相差 {points} 个百分点 [{low}, {high}]，n={n}；"
        "其他指标均无显著下降。",
        "mixed": "{candidate} 的事实齐全率比 {baseline} 高 {points} 个百分点 [{low}, {high}]，n={n}，"
        "但以下指标显著变差：{losses}。",
        "worse": "{candidate} 不如 {baseline}：事实齐全的回答相差 {points} 个百分点 [{low}, {high}]，n={n}。{losses}",
        "no difference": "没有发现 {candidate} 与 {baseline} 有差异：事实齐全的回答相差 {points} 个百分点 "
        "[{low}, {high}]，n={n}；若相差 {detectable} 个百分点，多半会被发现。",
        "incomplete": "没有结论：两组都回答了的用例太少，或没有可核对的事实。",
    },
}
_FINDINGS: dict[Language, dict[str, str]] = {
    "en": {
        "losses": "Significantly worse: {}.",
        "gains": "Significantly better: {}.",
        "equal": "Not worse by more than the margin: {}.",
        "unknown": "Too uncertain to say: {}.",
        "hurt": "Every fact less often, before correction, in the slices: {}.",
        "costs": "Cost of an answer, candidate minus baseline: {}.",
        "failed": "{arm}: {count} of {n} cases got no answer and are left out.",
    },
    "zh": {
        "losses": "显著变差：{}。",
        "gains": "显著变好：{}。",
        "equal": "下降不超过容许范围：{}。",
        "unknown": "不确定，无法下结论：{}。",
        "hurt": "以下切片中事实齐全率下降（未校正）：{}。",
        "costs": "每个回答的成本（候选减基线）：{}。",
        "failed": "{arm}：{n} 个用例中有 {count} 个没有回答，未计入。",
    },
}
