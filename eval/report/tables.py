"""The report's tables in one language: rows and cells of text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eval.metrics import Metric, metric
from eval.paired import Difference
from eval.report import wording
from eval.report.plots import FEW
from eval.results import Results, Slice
from retrieval.language import Language

GROUPS = {
    "answers": (
        *("facts", "grounded", "citation precision", "citation recall", "abstention", "route"),
        *("no invented figures", "right language", "style", "safe", "judge"),
    ),
    "likeness": ("ROUGE-L", "BLEU", "chrF", "similarity", "reference perplexity"),
    "cost": ("first token", "total", "between tokens", "answer tokens", "words", "CPU"),
}
"""Every metric, as the table of arms has them; the primary one stands above."""


@dataclass(frozen=True)
class Cell:
    text: str
    fine: str = ""
    """The interval, below in small."""
    title: str = ""
    won: bool = False


@dataclass(frozen=True)
class Row:
    label: str
    meaning: str
    cells: list[Cell]


@dataclass(frozen=True)
class Group:
    title: str
    rows: list[Row]


def label(name: str, language: Language) -> str:
    return metric(name).label[language]


def arm_order(results: Results) -> list[str]:
    """Baseline and candidate first."""
    first = [results.baseline, results.candidate]
    return [*first, *(arm.name for arm in results.arms if arm.name not in first)]


def arm_groups(results: Results, language: Language) -> list[Group]:
    """The table of arms: a cell for baseline, candidate, their difference, and each other arm."""
    words = wording.texts(language)["arms"]
    return [
        Group(words[key], [_row(it, results, language) for it in rows])
        for key, rows in measured(results).items()
        if rows
    ]


def measured(results: Results) -> dict[str, list[Metric]]:
    """The metrics that some arm has, by group; the primary one alone above."""
    groups = {"primary": (results.primary,)} | {
        key: tuple(name for name in names if name != results.primary) for key, names in GROUPS.items()
    }
    return {
        key: [metric(name) for name in names if any(name in arm.metrics for arm in results.arms)]
        for key, names in groups.items()
    }


def _row(it: Metric, results: Results, language: Language) -> Row:
    name, words = it.name, wording.texts(language)
    found = {arm.name: arm.metrics.get(name) for arm in results.arms}
    difference = results.comparisons[0].differences.get(name) if results.comparisons else None
    won = {"first": results.baseline, "second": results.candidate}.get(wording.winner(difference, it))
    cells = []
    for arm in arm_order(results):
        around = found.get(arm)
        cells.append(
            Cell(
                wording.value(around.mean, it, language),
                wording.interval(around, it, language),
                words["arms"]["n"].format(n=around.n),
                arm == won,
            )
            if around
            else Cell(words["none"])
        )
    cells.insert(2, difference_cell(difference, it, language))
    return Row(it.label[language], words["metrics"][name], cells)


def difference_cell(difference: Difference | None, it: Metric, language: Language) -> Cell:
    words = wording.texts(language)
    if difference is None:
        return Cell(words["none"])
    return Cell(
        wording.change(difference.mean, it, language),
        wording.change_interval(difference, it, language),
        words["arms"]["difference_title"].format(
            n=difference.n,
            groups=difference.groups,
            p=wording.p_value(difference.p),
            p_holm=wording.p_value(difference.p_holm),
            effect=f"{difference.effect:.2f}",
            detectable=wording.detectable(difference, it, language),
        ),
    )


def columns(order: list[str], results: Results, words: Mapping[str, Any]) -> list[tuple[str, str]]:
    roles = {results.baseline: words["arms"]["baseline"], results.candidate: words["arms"]["candidate"]}
    columns = [(name, roles.get(name, "")) for name in order]
    columns.insert(2, (words["arms"]["difference"], words["arms"]["difference_of"]))
    return columns


def asked(results: Results, words: Mapping[str, Any]) -> list[Row]:
    by_name = {arm.name: arm for arm in results.arms}
    rows = []
    for arm in (by_name[name] for name in arm_order(results) if name in by_name):
        routes = ", ".join(f"{route} {n}" for route, n in sorted(arm.routes.items(), key=lambda it: -it[1]))
        rows.append(Row(arm.name, "", [Cell(arm.prompt), Cell(routes or words["none"]), Cell(str(arm.failed))]))
    return rows


def slice_groups(results: Results, language: Language) -> list[Group]:
    """The slices by what they are cut by: a cell for the metric, the cases, each arm, and the difference."""
    words = wording.texts(language)

    def row(part: Slice) -> Row:
        it = metric(part.metric)
        name = words["slices"][part.value] if part.by == "language" else part.value
        arms = [part.arms.get(arm) for arm in arm_order(results)]
        return Row(
            name,
            "",
            [
                Cell(it.label[language]),
                Cell(str(part.n), words["slices"]["few"] if part.n < FEW else ""),
                *(Cell(words["none"] if mean is None else wording.value(mean, it, language)) for mean in arms),
                difference_cell(part.difference, it, language),
            ],
        )

    groups = {
        by: [row(part) for part in results.slices if part.by == by]
        for by in dict.fromkeys(s.by for s in results.slices)
    }
    return [Group(words["slices"][by], rows) for by, rows in groups.items()]
