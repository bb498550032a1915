"""Retrieval on public data sets against what it should reach, in one run and one table.

    python -m benchmarks.retrieval --data DIR --work DIR [--only NAME]

`--data` is the folder that benchmarks/datasets.py describes; knowledge, cases, models and indexes go to `--work`.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.datasets import DATASETS, prepare
from eval.cases import read_cases
from eval.intervals import Interval
from eval.retrieval import MODES, Report, evaluate
from retrieval.errors import SupportError

JUDGED = [name for name in DATASETS if name != "sentences_100k"]
"""Data sets that say what answers their questions; the other one is for timing, in benchmarks/speed.py."""


@dataclass(frozen=True)
class Row:
    """One figure beside its target."""

    task: str
    n: int
    figure: str
    target: str = ""
    met: bool | None = None
    """None where there is no target."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with the data sets")
    parser.add_argument("--work", type=Path, required=True, help="where knowledge, cases and indexes go")
    parser.add_argument("--only", choices=JUDGED, action="append", help="this data set (may be repeated)")
    options = parser.parse_args()
    try:
        found = list(run(options.data, options.work, options.only or JUDGED))
    except SupportError as error:
        sys.exit(f"benchmarks.retrieval: {error}")
    print(table(found))


def run(data: Path, work: Path, names: list[str]) -> Iterator[Row]:
    """Prepare, index and evaluate each data set with the embedded encoder; the full reports are printed on the way."""
    from assistant.redaction import redact_article
    from retrieval.build import build
    from retrieval.embedded_encoder import NAME
    from retrieval.encoder import Encoder
    from retrieval.index import Index

    encoder = Encoder(NAME, work / "models")
    for name in names:
        prepared = prepare(name, data, work)
        built = build([prepared.knowledge], work / "indexes", encoder, redact_article, progress=True)
        index = Index(work / "indexes" / built.id, encoder)
        report = evaluate(index, read_cases(prepared.cases), progress=True)
        print(f"\n{name}: {prepared.files:,} files, {prepared.n:,} cases\n\n{report.as_text()}\n")
        yield from rows(name, report)


def rows(name: str, report: Report) -> Iterator[Row]:
    """What the report on a data set says about its targets."""
    if name == "btcpay":
        yield _at_least(report, "BTCPay FAQ → pages, recall@1", "recall@1", 0.45)
        yield _at_least(report, "BTCPay FAQ → pages, recall@5", "recall@5", 0.75)
        yield from (_not_below(report, measure) for measure in ("recall@1", "recall@5"))
    elif name == "microsoft_zh":
        yield _at_least(report, "Microsoft zh title → body, recall@1", "recall@1", 0.75)
        yield _at_least(report, "Microsoft zh title → body, recall@5", "recall@5", 0.95)
    elif name == "microsoft_en_zh":
        yield _at_least(report, "Microsoft en title → zh body, recall@5", "recall@5", 0.75)
    elif name == "tau2":
        hybrid, bm25 = report.mean("hybrid", "recall@10"), report.mean("bm25", "recall@10")
        if hybrid and bm25:
            met = hybrid.mean > bm25.mean
            yield Row("tau2 tasks (synthetic), recall@10", hybrid.n, _shown(hybrid), f"> BM25 {bm25.mean:.3f}", met)
    elif name == "banking77":
        yield from _gate(report)
    else:
        yield _at_least(report, f"{name}, recall@5", "recall@5", None)


def table(found: list[Row]) -> str:
    """The rows, aligned."""
    lines = [f"{'task':46}{'n':>6}  {'figure [95% interval]':25}{'target':16}met"]
    for row in found:
        met = "" if row.met is None else "yes" if row.met else "NO"
        lines.append(f"{row.task:46}{row.n:6,}  {row.figure:25}{row.target:16}{met}".rstrip())
    return "\n".join(lines)


def _at_least(report: Report, task: str, measure: str, target: float | None) -> Row:
    mean = report.mean("hybrid", measure)
    if mean is None:
        return Row(task, 0, "-")
    if target is None:
        return Row(task, mean.n, _shown(mean))
    return Row(task, mean.n, _shown(mean), f"≥ {target:.2f}", mean.mean >= target)


def _not_below(report: Report, measure: str) -> Row:
    """Hybrid may be two cases worse than the better of its parts."""
    task = f"  hybrid minus the better of its parts, {measure}"
    differences = [report.difference(mode, measure) for mode in MODES if mode != "hybrid"]
    least = min((difference for difference in differences if difference), key=lambda found: found.mean, default=None)
    if least is None:
        return Row(task, 0, "-")
    return Row(task, least.n, _shown(least), f"≥ -2/n = {-2 / least.n:.3f}", least.mean * least.n >= -2 - 1e-9)


def _gate(report: Report) -> Iterator[Row]:
    if missed := report.decided("miss", "in"):
        within = 0.03 <= missed.mean <= 0.07
        yield Row("gate: false misses, Banking77", missed.n, _shown(missed), "0.03 to 0.07", within)
    for label, topics in (
        ("far caught, CLINC out of scope", ("clinc-oos",)),
        ("far caught, CLINC other domains", ("clinc-other",)),
        ("far caught, both", ("clinc-oos", "clinc-other")),
    ):
        part = report.only(lambda outcome, topics=topics: outcome.case.topic in topics)  # type: ignore[misc]
        if caught := part.decided("miss", "far"):
            yield Row(f"gate: {label}", caught.n, _shown(caught), "≥ 0.98", caught.mean >= 0.98)
    if (auroc := report.auroc("near")) is not None:
        n = sum(outcome.scope == "near" for outcome in report.outcomes)
        yield Row("gate: AUROC against near, 20 intents held out", n, f"{auroc:.3f}", "≥ 0.88", auroc >= 0.88)


def _shown(interval: Interval) -> str:
    return f"{interval.mean:.3f} [{interval.low:.3f} {interval.high:.3f}]"


if __name__ == "__main__":
    main()
