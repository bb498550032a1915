"""Retrieval measured by cases: what each way of search finds, what the gate lets through, and how fast it is.

    cases × {hybrid, dense, bm25} → the documents in order → trec_eval → means, 95% intervals, paired differences

A case with `relevant` paths is in scope. One without is out of scope: near or far as its `scope` says, and far
where that is left at `in`.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from assistant.prompt import Message, search_query
from assistant.redaction import Redactor
from eval.cases import Case
from eval.intervals import Interval, clustered_mean, share
from eval.paired import Pair, difference
from retrieval.errors import InputError
from retrieval.index import Found, Index, Mode, Query
from retrieval.language import Language, language_of

Scope = Literal["in", "near", "far"]
MODES: tuple[Mode, ...] = ("hybrid", "dense", "bm25")
MEASURES = {
    "recall@1": "recall_1",
    "recall@5": "recall_5",
    "recall@10": "recall_10",
    "mrr@10": "recip_rank",
    "ndcg@10": "ndcg_cut_10",
}
"""Our names of the measures, and those of trec_eval, which sees the first ten documents only."""
COMPARED = ("recall@1", "recall@5")
PASSAGES = 50
"""Searched for a case: enough that ten documents are among them."""
WARM_UP = 5
"""Searches before the clock counts."""


@dataclass(frozen=True)
class Outcome:
    """One case, as each mode answered it."""

    case: Case
    scope: Scope
    language: Language
    measures: dict[Mode, dict[str, float]]
    """By mode and measure, 0 to 1; empty out of scope."""
    decision: Literal["hit", "ambiguous", "miss"]
    probability: float
    """The gate's, that the knowledge base answers the question."""
    ms: dict[Mode, float]
    """Milliseconds of the search by mode, embedding of the query included."""


@dataclass(frozen=True)
class Report:
    outcomes: tuple[Outcome, ...]
    not_indexed: tuple[tuple[str, str], ...] = ()
    """Cases and their relevant paths that no indexed document has; nothing can find them."""

    def only(self, keep: Callable[[Outcome], bool]) -> "Report":
        """The report on some of the outcomes."""
        return Report(tuple(outcome for outcome in self.outcomes if keep(outcome)))

    def mean(self, mode: Mode, measure: str) -> Interval | None:
        """A measure over the cases in scope; None if there are none."""
        return self._mean(lambda outcome: outcome.measures[mode][measure])

    def difference(self, mode: Mode, measure: str) -> Interval | None:
        """By how much hybrid is better than `mode`, in pairs over the cases in scope; None under two groups of them."""
        pairs = [
            Pair(outcome.measures[mode][measure], outcome.measures["hybrid"][measure], str(_group(outcome.case)))
            for outcome in self.outcomes
            if outcome.scope == "in"
        ]
        found = difference(pairs) if pairs else None
        return found.interval if found else None

    def decided(self, decision: Literal["hit", "ambiguous", "miss"], *scopes: Scope) -> Interval | None:
        """The share of the cases of `scopes` with this decision of the gate; None if there are none."""
        return self._share(lambda outcome: outcome.decision == decision, scopes)

    def let_through(self, *scopes: Scope) -> Interval | None:
        """The share of the cases of `scopes` that are no miss to the gate; None if there are none."""
        return self._share(lambda outcome: outcome.decision != "miss", scopes)

    def auroc(self, *scopes: Scope) -> float | None:
        """How often a case in scope has a higher probability than one of `scopes`; None if there is no such pair."""
        from sklearn.metrics import roc_auc_score

        judged = [outcome for outcome in self.outcomes if outcome.scope in ("in", *scopes)]
        labels = [outcome.scope == "in" for outcome in judged]
        if len(set(labels)) < 2:
            return None
        return float(roc_auc_score(labels, [outcome.probability for outcome in judged]))

    def latency_ms(self, mode: Mode) -> dict[str, float]:
        """The median and the 99th percentile of the search."""
        p50, p99 = np.percentile([outcome.ms[mode] for outcome in self.outcomes], [50, 99])
        return {"p50": float(p50), "p99": float(p99)}

    def as_dict(self) -> dict[str, Any]:
        """The report for other programs; a figure that nothing gives is None, never missing."""
        languages = {language: self._of(language) for language in self._languages()}
        first = dict(zip(("case", "path"), self.not_indexed[0], strict=True)) if self.not_indexed else None
        return {
            **self._figures(),
            "latency_ms": {**self.latency_ms("hybrid"), **{mode: self.latency_ms(mode) for mode in MODES[1:]}},
            "languages": {language: report._figures() for language, report in languages.items()},
            "not_indexed": {"paths": len(self.not_indexed), "first": first},
        }

    def as_text(self) -> str:
        """The report for people, in lines of at most 100 characters."""
        lines = [f"{self._count('in')} cases in scope, {self._count('near')} near, {self._count('far')} far out of it"]
        if self.not_indexed:
            case, path = self.not_indexed[0]
            missing = len(self.not_indexed)
            lines.append(
                f"{missing:,} relevant paths of cases are in no indexed document and count as not found, first:"
            )
            lines.append(f"  {path} of case {case}")
        if self._count("in"):
            lines += ["", f"{'':8}" + "".join(f"{measure:>18}" for measure in MEASURES), *self._ranking_lines()]
            if len(self._languages()) > 1:
                for language in self._languages():
                    part = self._of(language)
                    lines += ["", f"{language}, {part._count('in')} in scope", *part._ranking_lines()]
            lines.append("")
            for mode in MODES[1:]:
                cells = (f"{measure} {_signed(self.difference(mode, measure))}" for measure in COMPARED)
                lines.append(f"hybrid minus {mode}: {', '.join(cells)}")
        lines += ["", f"{'gate':20}{'n':>7}{'wrong':>20}{'ambiguous':>20}{'AUROC':>10}"]
        for label, scopes in _GATE_ROWS:
            if all(self._count(scope) for scope in scopes):
                wrong = self.decided("miss", "in") if scopes == ("in",) else self.let_through(*scopes)
                auroc = None if scopes == ("in",) else self.auroc(*scopes)
                ambiguous = _number(self.decided("ambiguous", *scopes))
                count = f"{self._count(*scopes):,}"
                lines.append(f"{label:20}{count:>7}{_number(wrong):>20}{ambiguous:>20}{_plain(auroc):>10}")
        lines += ["", f"{'search, ms':20}{'p50':>10}{'p99':>10}"]
        for mode in MODES:
            latency = self.latency_ms(mode)
            lines.append(f"{mode:20}{latency['p50']:10.2f}{latency['p99']:10.2f}")
        lines += ["", "[95% interval]: bootstrap over groups; for the gate Wilson's, where each case is one"]
        lines.append("search: one query at a time, its embedding included")
        return "\n".join(lines)

    def _figures(self) -> dict[str, Any]:
        return {
            **{mode: self._ranking(mode) for mode in MODES},
            "differences": {
                f"hybrid - {mode}": {measure: _as_dict(self.difference(mode, measure)) for measure in COMPARED}
                for mode in MODES[1:]
            },
            "gate": {
                "false_miss_rate": _value(self.decided("miss", "in")),
                "false_hit_rate": _value(self.let_through("near", "far")),
                "auroc": self.auroc("near", "far"),
                "ambiguous_rate": _value(self.decided("ambiguous", "in")),
                "intervals": {
                    "false_miss_rate": _bounds(self.decided("miss", "in")),
                    "false_hit_rate": _bounds(self.let_through("near", "far")),
                    "ambiguous_rate": _bounds(self.decided("ambiguous", "in")),
                },
                "near": self._out_of_scope("near"),
                "far": self._out_of_scope("far"),
            },
            "n": len(self.outcomes),
            "n_in_scope": self._count("in"),
        }

    def _ranking(self, mode: Mode) -> dict[str, Any]:
        means = {measure: self.mean(mode, measure) for measure in MEASURES}
        return {
            **{measure: _value(mean) for measure, mean in means.items()},
            "intervals": {measure: _bounds(mean) for measure, mean in means.items()},
        }

    def _out_of_scope(self, scope: Scope) -> dict[str, Any]:
        return {
            "n": self._count(scope),
            "false_hit_rate": _value(self.let_through(scope)),
            "ambiguous_rate": _value(self.decided("ambiguous", scope)),
            "auroc": self.auroc(scope),
            "intervals": {
                "false_hit_rate": _bounds(self.let_through(scope)),
                "ambiguous_rate": _bounds(self.decided("ambiguous", scope)),
            },
        }

    def _ranking_lines(self) -> list[str]:
        return [
            f"{mode:8}" + "".join(f"{_number(self.mean(mode, measure)):>18}" for measure in MEASURES) for mode in MODES
        ]

    def _count(self, *scopes: Scope) -> int:
        return sum(outcome.scope in scopes for outcome in self.outcomes)

    def _languages(self) -> list[Language]:
        return sorted({outcome.language for outcome in self.outcomes})

    def _of(self, language: Language) -> "Report":
        return self.only(lambda outcome: outcome.language == language)

    def _mean(self, value: Callable[[Outcome], float]) -> Interval | None:
        groups = self._grouped(value, ("in",))
        return clustered_mean(groups) if groups else None

    def _share(self, holds: Callable[[Outcome], bool], scopes: Sequence[Scope]) -> Interval | None:
        groups = self._grouped(holds, scopes)
        if all(len(group) == 1 for group in groups):
            return share([bool(group[0]) for group in groups]) if groups else None
        return clustered_mean(groups)

    def _grouped(self, value: Callable[[Outcome], float], scopes: Sequence[Scope]) -> list[list[float]]:
        groups: dict[tuple[bool, str], list[float]] = {}
        for outcome in self.outcomes:
            if outcome.scope in scopes:
                groups.setdefault(_group(outcome.case), []).append(float(value(outcome)))
        return list(groups.values())


def evaluate(index: Index, cases: Sequence[Case], progress: bool = False) -> Report:
    """Search `index` for every case as serving does, in each mode, one query at a time.

    The query is the one that serving forms from the conversation, in the case's language if it has one.

    Raises:
        InputError: There are cases in scope, and `index` has the documents of none.
    """
    not_indexed = _not_indexed(index, cases)
    queries = [question(case) for case in cases]
    rankings: dict[Mode, list[list[str]]] = {}
    ms: dict[Mode, list[float]] = {}
    gated = []
    for mode in MODES:
        for case, query in itertools.islice(itertools.cycle(zip(cases, queries, strict=True)), WARM_UP):
            index.search(query, PASSAGES, case.lang, mode=mode)
        rankings[mode], ms[mode] = [], []
        for case, query in tqdm(
            zip(cases, queries, strict=True), f"searching, {mode}", len(cases), disable=not progress, unit="case"
        ):
            started = time.perf_counter()
            search = index.search(query, PASSAGES, case.lang, mode=mode)
            ms[mode].append(1000 * (time.perf_counter() - started))
            rankings[mode].append(ranking(search.found, case.relevant))
            if mode == "hybrid":
                gated.append((search.decision, search.probability))
    measured = {mode: _measures(cases, rankings[mode]) for mode in MODES}
    outcomes = (
        Outcome(
            case,
            scope(case),
            case.lang or language_of(query.text),
            {mode: measured[mode][n] for mode in MODES} if case.relevant else {},
            *gated[n],
            {mode: ms[mode][n] for mode in MODES},
        )
        for n, (case, query) in enumerate(zip(cases, queries, strict=True))
    )
    return Report(tuple(outcomes), not_indexed)


def scope(case: Case) -> Scope:
    """A case with relevant paths is in scope; without, near or far as it says, and far if it says nothing."""
    if case.relevant:
        return "in"
    return "near" if case.scope == "near" else "far"


def ranking(found: Sequence[Found], relevant: Sequence[str]) -> list[str]:
    """The documents of passages in the order in which they come first.

    The entries of a list (`cards.csv#12`) are one document where `relevant` names their file.
    """
    named = (found.passage.path for found in found)
    files = ((path, path.partition("#")[0]) for path in named)
    return list(dict.fromkeys(file if path not in relevant and file in relevant else path for path, file in files))


def question(case: Case) -> Query:
    """What is searched for, as the chat service would: from the conversation, without personal data."""
    turns = [Message("user", case.query)] if case.query else [Message(m.role, m.content) for m in case.messages]
    texts = Redactor().conversation([turn.content for turn in turns])
    return search_query([Message(turn.role, text) for turn, text in zip(turns, texts, strict=True)])


def _group(case: Case) -> tuple[bool, str]:
    """A case without a group is one by itself, whatever groups are called."""
    return case.group is not None, case.group or case.id


def _measures(cases: Sequence[Case], rankings: Sequence[list[str]]) -> list[dict[str, float]]:
    """The measures of each case; empty out of scope."""
    from pytrec_eval import RelevanceEvaluator

    relevant = {str(n): dict.fromkeys(case.relevant, 1) for n, case in enumerate(cases) if case.relevant}
    scores = {
        str(n): {path: float(-rank) for rank, path in enumerate(documents[:10])}
        for n, documents in enumerate(rankings)
        if str(n) in relevant
    }
    judged = RelevanceEvaluator(relevant, set(MEASURES.values())).evaluate(scores)
    return [
        {measure: float(judged[str(n)][name]) for measure, name in MEASURES.items()} if str(n) in judged else {}
        for n in range(len(cases))
    ]


def _not_indexed(index: Index, cases: Sequence[Case]) -> tuple[tuple[str, str], ...]:
    paths = index.paths()
    known = paths | {path.partition("#")[0] for path in paths}
    pairs = [(case.id, path) for case in cases for path in case.relevant]
    missing = tuple(pair for pair in pairs if pair[1] not in known)
    if missing and len(missing) == len(pairs):
        name, path = missing[0]
        raise InputError(
            f"no relevant path of the cases is in the index: {path!r} of case {name} is the first; "
            "give paths relative to the knowledge folder that was indexed"
        )
    return missing


_GATE_ROWS: tuple[tuple[str, tuple[Scope, ...]], ...] = (
    ("in scope, missed", ("in",)),
    ("near, let through", ("near",)),
    ("far, let through", ("far",)),
    ("both, let through", ("near", "far")),
)


def _value(interval: Interval | None) -> float | None:
    return interval.mean if interval else None


def _bounds(interval: Interval | None) -> list[float] | None:
    return [interval.low, interval.high] if interval else None


def _as_dict(interval: Interval | None) -> dict[str, Any] | None:
    return dict(vars(interval)) if interval else None


def _plain(value: float | None) -> str:
    """A number from 0 to 1 in four characters: `.512`, `1.00`."""
    return "-" if value is None else f"{value:.3f}".removeprefix("0")[:4]


def _number(interval: Interval | None) -> str:
    return f"{_plain(interval.mean)} [{_plain(interval.low)} {_plain(interval.high)}]" if interval else "-"


def _signed(interval: Interval | None) -> str:
    return f"{interval.mean:+.3f} [{interval.low:+.3f} {interval.high:+.3f}]" if interval else "-"
