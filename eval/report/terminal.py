"""The report for a terminal, in English."""

import textwrap
from collections.abc import Sequence

from eval.metrics import metric
from eval.report import wording
from eval.report.tables import arm_order, measured
from eval.results import Results

COLUMNS = 100
_GAP = 2


def as_text(results: Results) -> str:
    """Verdict, findings, arms by metrics, differences and slices, in lines of at most 100 columns."""
    said = [f"{results.verdict.upper()}: {results.sentences['en']}", *(f"- {it}" for it in results.findings["en"])]
    blocks = [
        [line for sentence in said for line in textwrap.wrap(sentence, COLUMNS, subsequent_indent="  ")],
        *_packed(_arms(results)),
        *_packed(_differences(results)),
        *_packed(_slices(results)),
    ]
    return "\n\n".join("\n".join(block) for block in blocks)


def _arms(results: Results) -> list[list[str]]:
    metrics = [it for group in measured(results).values() for it in group]
    by_name = {arm.name: arm.metrics for arm in results.arms}
    columns = [["", *(it.name for it in metrics)]]
    for name in arm_order(results):
        around = [by_name.get(name, {}).get(it.name) for it in metrics]
        cells = [
            f"{wording.value(found.mean, it, 'en')} (n={found.n})" if found else "-"
            for found, it in zip(around, metrics, strict=True)
        ]
        columns.append([name, *cells])
    return columns


def _differences(results: Results) -> list[list[str]]:
    found = results.comparisons[0].differences if results.comparisons else {}
    metrics = [it for group in measured(results).values() for it in group if it.name in found]
    return [
        [f"{results.candidate} minus {results.baseline}", *(it.name for it in metrics)],
        ["difference", *(wording.change(found[it.name].mean, it, "en") for it in metrics)],
        ["95% interval", *(wording.change_interval(found[it.name], it, "en") for it in metrics)],
        ["p (Holm)", *(wording.p_value(found[it.name].p_holm) for it in metrics)],
        ["n", *(str(found[it.name].n) for it in metrics)],
        ["", *({"first": "worse", "second": "better", "": ""}[wording.winner(found[it.name], it)] for it in metrics)],
    ]


def _slices(results: Results) -> list[list[str]]:
    parts = [(part, metric(part.metric)) for part in results.slices]
    differences = [(part.difference, it) for part, it in parts]
    return [
        ["slice", *(f"{part.by} {part.value}" for part, _ in parts)],
        ["metric", *(it.name for _, it in parts)],
        ["n", *(str(part.n) for part, _ in parts)],
        *(
            [name, *(wording.value(part.arms[name], it, "en") if name in part.arms else "-" for part, it in parts)]
            for name in (results.baseline, results.candidate)
        ),
        ["difference", *(wording.change(found.mean, it, "en") if found else "-" for found, it in differences)],
        ["95% interval", *(wording.change_interval(found, it, "en") if found else "-" for found, it in differences)],
    ]


def _packed(columns: Sequence[Sequence[str]]) -> list[list[str]]:
    """Columns as tables below each other, each with the first column and as many others as fit."""
    if len(columns[0]) == 1:
        return []
    names, *others = columns
    tables: list[list[Sequence[str]]] = [[]]
    for column in others:
        if tables[-1] and _width([names, *tables[-1], column]) > COLUMNS:
            tables.append([])
        tables[-1].append(column)
    return [_table([names, *table]) for table in tables]


def _table(columns: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in columns]
    return [
        (
            row[0].ljust(widths[0])
            + "".join(f"{'':{_GAP}}{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        ).rstrip()
        for row in zip(*columns, strict=True)
    ]


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) + _GAP for column in columns) - _GAP
