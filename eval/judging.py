"""People who judge two answers side by side, without knowing which arm gave which: the page, its votes, their sum."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from pydantic import BaseModel, ConfigDict, StringConstraints
from starlette.responses import FileResponse

from assistant.access import Tenant
from assistant.citations import without_markers
from assistant.redaction import Redactor, redact
from assistant.service import page_headers
from assistant.state import MOST_JUDGE_CHARACTERS, Judgement, State
from eval.agreement import Vote, agreement, position_bias
from eval.answers import Answer, Shown, read_answers
from eval.cases import Case, read_cases
from eval.intervals import Interval, clustered_mean
from eval.results import People
from retrieval.errors import InputError

PAGE = Path(__file__).parent / "judging_page"
REASONS = ("relevance", "correctness", "readability")
_File = Literal["judging.css", "judging.js"]
_Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MOST_JUDGE_CHARACTERS)]


@dataclass(frozen=True)
class Pair:
    """What two arms answered to one case, without personal data."""

    case: str
    asked: tuple[dict[str, str], ...]
    reference: str | None
    passages: tuple[Shown, ...]
    """Those of either arm: whose they are would tell which arm searched."""
    texts: dict[str, str]
    """By arm, without citation markers, which only an arm that searches has."""


@dataclass(frozen=True)
class Run:
    """An evaluation as it is judged."""

    id: str
    arms: tuple[str, str]
    """Baseline and candidate."""
    pairs: dict[str, Pair]
    """By case, in an order that all judges share."""


class _Vote(BaseModel):
    model_config = ConfigDict(extra="forbid")

    judge: _Name
    case: str
    preferred: Literal["left", "right", "tie"]
    reasons: frozenset[Literal["relevance", "correctness", "readability"]] = frozenset()


def router(evaluations: Path, state: State, admitted: Callable[[Request], Tenant]) -> APIRouter:
    """The page and its requests; those for answers and votes need `admitted`."""
    routes = APIRouter(prefix="/judging", include_in_schema=False)
    keyed = [Depends(admitted)]
    headers = page_headers()
    read = lru_cache(maxsize=2)(_read)

    @routes.get("")
    def page() -> Response:
        return FileResponse(PAGE / "index.html", headers=headers)

    @routes.get("/files/{name}")
    def file(name: _File) -> Response:
        return FileResponse(PAGE / name, headers=headers)

    @routes.get("/runs", dependencies=keyed)
    def runs() -> list[dict[str, str]]:
        """The evaluations, the newest first."""
        found = [{"id": folder.name, "at": str(_report(folder)["at"])} for folder in _folders(evaluations)]
        return sorted(found, key=lambda each: each["at"], reverse=True)

    @routes.get("/runs/{id}/next", dependencies=keyed)
    def following(id: str, judge: Annotated[_Name, Query()]) -> dict[str, Any]:
        """The pair that the judge sees next; none once all are judged."""
        run, judge = run_of(id), _nickname(judge)
        votes = [vote for vote in state.votes(id) if vote.case_id in run.pairs]
        done = {vote.case_id for vote in votes if vote.judge == judge}
        judged_by_others = {vote.case_id for vote in votes} - done
        left = [case for case in run.pairs if case not in done]
        case = min(left, key=lambda case: case not in judged_by_others, default=None)
        return _shown(run, judge, case, len(done))

    @routes.post("/runs/{id}/votes", status_code=201, dependencies=keyed)
    def vote(id: str, given: _Vote) -> dict[str, str]:
        """Keep a vote; it is stored when this answers."""
        run, judge = run_of(id), _nickname(given.judge)
        if given.case not in run.pairs:
            raise HTTPException(404, f"the evaluation {id} has no two answers to a case {redact(given.case)[:60]!r}")
        left, right = _sides(run, judge, given.case)
        reasons = tuple(reason for reason in REASONS if reason in given.reasons)
        state.vote(Judgement(id, given.case, judge, left, right, given.preferred, reasons, datetime.now(UTC)))
        return {"case": given.case}

    @routes.delete("/runs/{id}/votes", dependencies=keyed)
    def undo(id: str, judge: Annotated[_Name, Query()]) -> dict[str, Any]:
        """Take the judge's last vote back, and show its pair again."""
        run, judge = run_of(id), _nickname(judge)
        given = [vote.case_id for vote in state.votes(id) if vote.judge == judge and vote.case_id in run.pairs]
        if not given:
            raise HTTPException(404, f"{judge} has no vote on the evaluation {id} to take back")
        state.unvote(id, given[-1], judge)
        return _shown(run, judge, given[-1], len(given) - 1)

    def run_of(id: str) -> Run:
        folder = next((folder for folder in _folders(evaluations) if folder.name == id), None)
        if folder is None:
            raise HTTPException(404, f"there is no evaluation {redact(id)[:60]!r}; run: assistant evaluate ab")
        return read(folder, (folder / "answers.jsonl").stat().st_mtime_ns)

    return routes


def people(votes: Iterable[Judgement], baseline: str, candidate: str, groups: Mapping[str, str]) -> People | None:
    """What judges said of two arms; None where nobody voted on them.

    `groups` names the group of a case where it has one; cases of a group are not independent.
    """
    cast = [
        (Vote(vote.judge, vote.case_id, vote.preferred, vote.left_arm, vote.right_arm), vote.reasons)
        for vote in votes
        if {vote.left_arm, vote.right_arm} == {baseline, candidate}
    ]
    if not cast:
        return None
    given = [vote for vote, _ in cast]
    preferred = Counter(vote.choice for vote in given)
    agreed, bias = agreement(given), position_bias(given)
    return People(
        judges=len({vote.judge for vote in given}),
        items=len({vote.item for vote in given}),
        votes=len(given),
        preferred={choice: preferred[choice] for choice in (candidate, baseline, "tie")},
        share=_share([vote for vote in given if vote.choice != "tie"], candidate, groups),
        alpha=agreed.alpha if agreed else None,
        reasons={
            arm: {name: sum(name in reasons for vote, reasons in cast if vote.choice == arm) for name in REASONS}
            for arm in (candidate, baseline)
        },
        bias={"left": asdict(bias.first), "p": bias.p} if bias else None,
    )


def _share(decided: list[Vote], candidate: str, groups: Mapping[str, str]) -> Interval | None:
    """The share of votes for the candidate, clustered by group of cases."""
    clusters: dict[str, list[float]] = {}
    for vote in decided:
        clusters.setdefault(groups.get(vote.item, vote.item), []).append(float(vote.choice == candidate))
    return clustered_mean(list(clusters.values())) if clusters else None


def _folders(evaluations: Path) -> Iterator[Path]:
    """The folders of evaluations that are finished; only they have a report, and those of nights no answers."""
    if evaluations.is_dir():
        needed = ("report.json", "cases.jsonl", "answers.jsonl")
        yield from (it for it in evaluations.iterdir() if all((it / name).is_file() for name in needed))


def _report(folder: Path) -> dict[str, Any]:
    path = folder / "report.json"
    try:
        report: dict[str, Any] = json.loads(path.read_bytes())
        return {name: report[name] for name in ("at", "baseline", "candidate")}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is no report of an evaluation: {error!r}; move its folder elsewhere") from None


def _read(folder: Path, stamp: int) -> Run:
    """The evaluation in `folder`; `stamp` changes with its answers."""
    report = _report(folder)
    arms = (str(report["baseline"]), str(report["candidate"]))
    answers: dict[str, dict[str, Answer]] = {}
    for answer in read_answers(folder / "answers.jsonl"):
        if answer.arm in arms:
            answers.setdefault(answer.case, {})[answer.arm] = answer
    pairs = [
        _pair(case, answers[case.id])
        for case in read_cases(folder / "cases.jsonl")
        if len(answers.get(case.id, ())) == len(arms)
    ]
    unlike = [pair for pair in pairs if len(set(pair.texts.values())) > 1]
    return Run(
        folder.name, arms, {pair.case: pair for pair in sorted(unlike, key=lambda p: _drawn(folder.name, p.case))}
    )


def _pair(case: Case, answers: Mapping[str, Answer]) -> Pair:
    asked, redactor = case.conversation(), Redactor()
    redacted = redactor.conversation([message["content"] for message in asked])
    passages = {passage for answer in answers.values() for passage in answer.passages}
    return Pair(
        case=case.id,
        asked=tuple({"role": message["role"], "content": text} for message, text in zip(asked, redacted, strict=True)),
        reference=redactor(case.reference) if case.reference else None,
        passages=tuple(
            Shown(passage.path, redactor(passage.heading), redactor(passage.text))
            for passage in sorted(passages, key=lambda p: (p.path, p.text))
        ),
        texts={arm: redactor(without_markers(answer.text).strip()) for arm, answer in sorted(answers.items())},
    )


def _shown(run: Run, judge: str, case: str | None, done: int) -> dict[str, Any]:
    """What the browser gets: nothing in it tells which arm is which."""
    progress: dict[str, Any] = {"done": done, "total": len(run.pairs), "pair": None}
    if case is None:
        return progress
    pair = run.pairs[case]
    return progress | {
        "pair": {
            "case": case,
            "asked": pair.asked,
            "answers": [pair.texts[arm] for arm in _sides(run, judge, case)],
            "passages": [asdict(passage) for passage in pair.passages],
            "reference": pair.reference,
        }
    }


def _sides(run: Run, judge: str, case: str) -> tuple[str, str]:
    """The arms left and right: random for each judge and case, and the same each time."""
    baseline, candidate = run.arms
    return (baseline, candidate) if _drawn(run.id, judge, case)[0] % 2 else (candidate, baseline)


def _drawn(*seed: str) -> bytes:
    return hashlib.sha256("\0".join(seed).encode()).digest()


def _nickname(judge: str) -> str:
    """The name as it may be stored.

    Raises:
        InputError: It holds personal data; without them two judges could be one.
    """
    if redact(judge) != judge:
        raise InputError(f"the name {redact(judge)!r} holds personal data; take a nickname")
    return judge
