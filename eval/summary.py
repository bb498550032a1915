"""From scored answers to what they say: means, paired differences, slices, the cases worth reading."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from eval.answers import Answer
from eval.cases import Case
from eval.intervals import Interval, clustered_mean
from eval.metrics import COSTS, METRICS, PRIMARY, QUALITY, Score, metric
from eval.paired import Difference, Pair, difference, holm, interaction
from eval.results import Arm, Comparison, Curve, Example, Results, Shown, Slice
from eval.verdict import findings, sentence, verdict_of
from retrieval.language import Language, language_of

EXAMPLES = 6
"""Best and worst cases that are shown."""
MOST_FAILED = 0.02
"""Of the cases: with more of them unanswered there is no verdict."""


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
    prompts: Mapping[str, str] | None = None,
    primary: str = PRIMARY,
    failed: Sequence[tuple[str, str]] = (),
    about: str = "",
    files: Mapping[str, str] | None = None,
    lineage: Mapping[str, Any] | None = None,
    training: Sequence[Curve] = (),
    judge: dict[str, Any] | None = None,
) -> Results:
    """What the answers of several arms come to; the first arm is the baseline, the second the candidate.

    `prompts` are the arms' own, where they are not plain. `primary` is the metric that decides; `failed` names cases
    and arms without an answer, which are left out of that arm's comparisons.
    """
    arms = list(scored)
    baseline, candidate = arms[:2]
    pairs = [(baseline, candidate), *((baseline, other) for other in arms[2:])]
    pairs += [("base", "lora")] if {"base", "lora"} <= set(arms) and baseline != "base" else []
    comparisons = [
        Comparison(first, second, _differences(cases, scored, first, second, primary)) for first, second in pairs
    ]
    main = comparisons[0].differences
    lost = Counter(arm for _, arm in failed)
    incomplete = primary not in main or max(lost[baseline], lost[candidate]) > MOST_FAILED * len(cases)
    slices = _slices(cases, scored, baseline, candidate, primary)
    verdict = verdict_of(main, primary, incomplete)
    best, worst = _examples(cases, scored, baseline, candidate, primary)
    return Results(
        id=name,
        at=at,
        verdict=verdict,
        sentences={
            language: sentence(verdict, main, primary, baseline, candidate, language) for language in _LANGUAGES
        },
        findings={language: findings(main, primary, slices, lost, cases, about, language) for language in _LANGUAGES},
        primary=primary,
        baseline=baseline,
        candidate=candidate,
        cases={
            "files": dict(files or {}),
            "n": len(cases),
            "groups": len({case.cluster for case in cases}),
            "languages": dict(Counter(_language(case) for case in cases)),
            "slices": dict(Counter(case.slice or "-" for case in cases)),
        },
        arms=[
            _arm(arm, cases, scored[arm], (prompts or {}).get(arm, "plain"), tried.get(arm, {}), lost[arm])
            for arm in arms
        ],
        comparisons=comparisons,
        interaction=_interaction(cases, scored, primary),
        slices=slices,
        best=best,
        worst=worst,
        training=list(training),
        lineage=dict(lineage or {}),
        judge=judge,
    )


_LANGUAGES: tuple[Language, ...] = ("en", "zh")


def _language(case: Case) -> Language:
    return case.lang or language_of(case.conversation()[-1]["content"])


def _pairs(cases: Sequence[Case], scored: Answers, first: str, second: str, name: str) -> list[Pair]:
    found = []
    for case in cases:
        if case.id in scored[first] and case.id in scored[second]:
            one, other = scored[first][case.id].value(name), scored[second][case.id].value(name)
            together = scored[first][case.id].answer.cost.run == scored[second][case.id].answer.cost.run
            if one is not None and other is not None and (together or name not in COSTS):
                found.append(Pair(one, other, case.cluster))
    return found


def _differences(
    cases: Sequence[Case], scored: Answers, first: str, second: str, primary: str
) -> dict[str, Difference]:
    """Of every metric that both arms have."""
    found = {}
    for each in METRICS:
        pairs = _pairs(cases, scored, first, second, each.name)
        if pairs and (of_metric := difference(pairs)):
            found[each.name] = of_metric
    return _corrected(found, primary)


def _corrected(found: dict[str, Difference], primary: str) -> dict[str, Difference]:
    """By Holm: the primary metric is one question and stays; the others of quality are a family, the costs another."""
    families = ([name for name in QUALITY if name != primary], COSTS)
    for family in families:
        found |= holm({name: found[name] for name in family if name in found})
    return found


def _interaction(cases: Sequence[Case], scored: Answers, primary: str) -> dict[str, Difference]:
    four = ("base", "lora", "rag", "rag+lora")
    if not set(four) <= set(scored):
        return {}
    found = {}
    for name in QUALITY:
        values = [
            ([scored[arm][case.id].value(name) for arm in four], case.cluster)
            for case in cases
            if all(case.id in scored[arm] for arm in four)
        ]
        whole = [(row, group) for row, group in values if None not in row]
        base, lora, rag, rag_lora = ([float(row[i] or 0) for row, _ in whole] for i in range(4))
        if whole and (of_metric := interaction(base, lora, rag, rag_lora, [group for _, group in whole])):
            found[name] = of_metric
    return _corrected(found, primary)


def _arm(
    name: str,
    cases: Sequence[Case],
    answers: Mapping[str, Scored],
    prompt: str,
    tried: dict[str, float],
    failed: int,
) -> Arm:
    metrics: dict[str, Interval] = {}
    for each in METRICS:
        groups: dict[str, list[float]] = {}
        for case in cases:
            value = answers[case.id].value(each.name) if case.id in answers else None
            if value is not None:
                groups.setdefault(case.cluster, []).append(value)
        if groups:
            metrics[each.name] = clustered_mean(list(groups.values()))
    return Arm(
        name=name,
        prompt=prompt,
        tried=tried,
        routes=dict(Counter(each.answer.route for each in answers.values())),
        metrics=metrics,
        failed=failed,
    )


def _slices(cases: Sequence[Case], scored: Answers, baseline: str, candidate: str, primary: str) -> list[Slice]:
    """The primary metric by what the cases try, their right route, language and topic; abstention where it is none."""
    kinds: dict[Literal["slice", "route", "language", "topic"], Callable[[Case], str | None]] = {
        "slice": lambda case: case.slice,
        "route": lambda case: case.route,
        "language": _language,
        "topic": lambda case: case.topic,
    }
    found = []
    for by, key in kinds.items():
        for value in sorted({named for case in cases if (named := key(case))}):
            some = [case for case in cases if key(case) == value]
            for name in (primary, "abstention"):
                pairs = _pairs(some, scored, baseline, candidate, name)
                if pairs:
                    means = {
                        baseline: sum(pair.first for pair in pairs) / len(pairs),
                        candidate: sum(pair.second for pair in pairs) / len(pairs),
                    }
                    found.append(Slice(by, value, name, means, difference(pairs), len(pairs)))
                    break
    return found


def _examples(
    cases: Sequence[Case], scored: Answers, baseline: str, candidate: str, primary: str
) -> tuple[list[Example], list[Example]]:
    """Where the candidate gains most, and where it loses most: in the primary metric, then in all others together."""
    gains = {}
    for case in cases:
        if case.id in scored[baseline] and case.id in scored[candidate]:
            before, after = scored[baseline][case.id], scored[candidate][case.id]
            by_metric = {name: _gain(before, after, name) for name in QUALITY}
            gains[case.id] = (by_metric[primary], sum(by_metric.values()))
    ordered = sorted((case for case in cases if case.id in gains), key=lambda case: gains[case.id])
    best = [case for case in reversed(ordered) if gains[case.id] > (0, 0)][:EXAMPLES]
    worst = [case for case in ordered if gains[case.id] < (0, 0)][:EXAMPLES]
    return (
        [_example(case, scored, baseline, candidate) for case in best],
        [_example(case, scored, baseline, candidate) for case in worst],
    )


def _gain(before: Scored, after: Scored, name: str) -> float:
    one, other = before.value(name), after.value(name)
    if one is None or other is None or metric(name).better == "lower":
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
