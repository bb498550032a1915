"""What the page shows, in one language: rows and cells of text, from which the template only makes loops."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from eval.metrics import METRICS, Metric, metric
from eval.paired import Difference
from eval.report import wording
from eval.report.plots import Plot, plots
from eval.report.tables import (
    GROUPS,
    Cell,
    Group,
    Row,
    arm_groups,
    arm_order,
    asked,
    columns,
    label,
    measured,
    slice_groups,
)
from eval.results import Comparison, Example, Results, Shown
from retrieval.language import Language

WRONG = 0.5
"""Score of an answer under which its evidence is shown as a fault."""


@dataclass(frozen=True)
class Found:
    """What a scorer found in an answer."""

    label: str
    value: str
    evidence: str


@dataclass(frozen=True)
class Side:
    """One arm's answer to a case."""

    arm: str
    route: str
    text: str
    faults: list[Found]
    """Scores that say that the answer is wrong."""
    scores_title: str
    scores: list[Found]


@dataclass(frozen=True)
class Case:
    title: str
    asked: list[tuple[str, str, str]]
    """Role, its name for readers, text."""
    reference: str | None
    passages_title: str
    passages: list[dict[str, str]]
    sides: list[Side]


@dataclass(frozen=True)
class View:
    language: Language
    words: dict[str, Any]
    verdict: str
    """Its name for readers."""
    question: str
    sentence: str
    findings: list[str]
    columns: list[tuple[str, str]]
    """Of the table of arms: name, and what it is."""
    arms_intro: str
    groups: list[Group]
    meanings: list[tuple[str, str]]
    asked: list[Row]
    plots: list[Plot]
    slices_intro: str
    slice_columns: list[str]
    slices: list[Group]
    comparisons: list[list[str]]
    interaction: list[str]
    examples: list[tuple[str, list[Case]]]
    people: list[str]
    votes: list[tuple[str, str]]
    reasons: list[tuple[str, str]]
    bias: list[tuple[str, str]]
    judge: list[tuple[str, str]]
    tried_intro: str
    tried: list[tuple[str, list[Cell]]]
    cases: list[tuple[str, str]]
    lineage: list[tuple[str, str]]


def view(results: Results, language: Language) -> View:
    words = wording.texts(language)
    names = {"candidate": results.candidate, "baseline": results.baseline, "primary": label(results.primary, language)}
    order = arm_order(results)
    return View(
        language=language,
        words=words,
        verdict=words["verdict"][results.verdict],
        question=words["of"].format(**names),
        sentence=results.sentences[language],
        findings=results.findings[language],
        columns=columns(order, results, words),
        arms_intro=words["arms"]["intro"].format(**names),
        groups=arm_groups(results, language),
        meanings=[
            (it.label[language], words["metrics"][it.name]) for group in measured(results).values() for it in group
        ],
        asked=asked(results, words),
        plots=plots(results, language),
        slices_intro=words["slices"]["intro"].format(**names),
        slice_columns=order,
        slices=slice_groups(results, language),
        comparisons=[said for it in results.comparisons[1:] if (said := in_words(it, results, language))],
        interaction=_interaction(results, language),
        examples=[
            (words["examples"][key].format(**names), [_case(it, results, language) for it in examples])
            for key, examples in (("best", results.best), ("worst", results.worst))
            if examples
        ],
        people=_people(results, language),
        votes=_entries(results.people.preferred if results.people else {}, words, {"tie": words["people"]["tie"]}),
        reasons=_entries(results.people.reasons if results.people else {}, words),
        bias=_entries((results.people.bias if results.people else None) or {}, words),
        judge=_entries(results.judge or {}, words),
        tried_intro=words["people"]["tried_intro"].format(**names),
        tried=_tried(results, language),
        cases=_entries(results.cases, words),
        lineage=[
            (words["data"]["id"], results.id),
            (words["data"]["at"], results.at),
            *_entries(results.lineage, words),
        ],
    )


def in_words(comparison: Comparison, results: Results, language: Language) -> list[str]:
    """A comparison in sentences: the primary metric, then what else differs for sure."""
    words = wording.texts(language)["comparisons"]
    sentences = []
    primary = comparison.differences.get(results.primary)
    if primary:
        key = {"second": "better", "first": "worse"}.get(wording.winner(primary, metric(results.primary)), "open")
        sentences.append(
            words[key].format(
                first=comparison.first,
                second=comparison.second,
                metric=label(results.primary, language),
                figures=figures(primary, metric(results.primary), language),
                detectable=wording.detectable(primary, metric(results.primary), language),
            )
        )
    for key, side in (("gains", "second"), ("losses", "first")):
        found = [
            f"{it.label[language]} {wording.change(comparison.differences[it.name].mean, it, language)}"
            for it in METRICS
            if it.name != results.primary and wording.winner(comparison.differences.get(it.name), it) == side
        ]
        if found:
            sentences.append(words[key].format(metrics=("、" if language == "zh" else ", ").join(found)))
    return sentences


def figures(difference: Difference, it: Metric, language: Language) -> str:
    """`+5.2 points (95% interval +1.0 to +9.4 points, 200 cases)`."""
    return str(
        wording.texts(language)["comparisons"]["figures"].format(
            mean=wording.change(difference.mean, it, language),
            range=wording.change_interval(difference, it, language),
            n=difference.n,
        )
    )


def _interaction(results: Results, language: Language) -> list[str]:
    words = wording.texts(language)["comparisons"]
    keys = {"second": "more", "first": "less", "": "same"}
    names = [it.name for it in METRICS if it.name in results.interaction]
    return [
        words[keys[wording.winner(results.interaction[name], metric(name))]].format(
            metric=label(name, language), figures=figures(results.interaction[name], metric(name), language)
        )
        for name in sorted(names, key=lambda name: name != results.primary)
    ]


def _case(example: Example, results: Results, language: Language) -> Case:
    words = wording.texts(language)["examples"]
    return Case(
        title=words["case"].format(case=example.case),
        asked=[(it["role"], words.get(it["role"], it["role"]), it["content"]) for it in example.asked],
        reference=example.reference,
        passages_title=words["passages"].format(candidate=results.candidate, n=len(example.passages)),
        passages=example.passages,
        sides=[
            _side(arm, example.answers[arm], language)
            for arm in (results.baseline, results.candidate)
            if arm in example.answers
        ],
    )


def _side(arm: str, shown: Shown, language: Language) -> Side:
    scores, faults = [], []
    for it in METRICS:
        score = shown.scores.get(it.name)
        if score is None:
            continue
        entry = Found(it.label[language], wording.value(score, it, language), shown.evidence.get(it.name, ""))
        scores.append(entry)
        if it.name in GROUPS["answers"] and score < WRONG:
            faults.append(entry)
    words = wording.texts(language)["examples"]
    return Side(arm, shown.route, shown.text or words["empty"], faults, words["scores"].format(n=len(scores)), scores)


def _people(results: Results, language: Language) -> list[str]:
    people, words = results.people, wording.texts(language)["people"]
    if people is None:
        return []
    sentences = [words["counted"].format(judges=people.judges, items=people.items, votes=people.votes)]
    if people.share:
        judged = metric("judge")  # a share, as the votes are
        sentences.append(
            words["share"].format(
                mean=wording.value(people.share.mean, judged, language),
                range=wording.interval(people.share, judged, language),
                candidate=results.candidate,
            )
        )
    if people.alpha is not None:
        level = words[wording.alpha_level(people.alpha)]
        sentences.append(words["agreement"].format(level=level, alpha=f"{people.alpha:.2f}"))
    return sentences


def _tried(results: Results, language: Language) -> list[tuple[str, list[Cell]]]:
    words, it = wording.texts(language)["people"], metric(results.primary)
    return [
        (
            arm.name,
            [
                Cell(prompt, wording.value(score, it, language), words["chosen"] if prompt == arm.prompt else "")
                for prompt, score in arm.tried.items()
            ],
        )
        for arm in results.arms
        if arm.tried
    ]


def _entries(
    held: Mapping[str, Any], words: Mapping[str, Any], own: Mapping[str, str] | None = None
) -> list[tuple[str, str]]:
    """A JSON object as lines of label and value, those within others in one line of theirs."""
    names = {**words["keys"], **(own or {})}

    def entries(part: Mapping[str, Any], above: str) -> Iterator[tuple[str, str]]:
        for key, value in part.items():
            name = f"{above}{names.get(key, key)}"
            if isinstance(value, Mapping) and any(isinstance(it, Mapping) for it in value.values()):
                yield from entries(value, f"{name} · ")
            elif isinstance(value, Mapping):
                yield name, ", ".join(f"{names.get(inner, inner)} {_plain(it)}" for inner, it in value.items())
            else:
                yield name, _plain(value)

    return list(entries(held, ""))


def _plain(value: Any) -> str:
    if value is None:
        return "—"
    if isinstance(value, float):
        return f"{value:.3g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
