"""One A/B evaluation, top to bottom: whether an adapter adds to retrieval, on the same cases.

cases × arms {rag, rag+lora, base, lora, quoted} → each arm's best prompt, on other cases → the running service
  → scorers → paired differences → verdict → report.html, report.json, report.md
"""

import itertools
import json
import platform
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from assistant.citations import without_markers
from assistant.redaction import Redactor, redact
from eval import report, scorers
from eval.answers import Answer, written
from eval.asking import CONCURRENCY, SEED, Asked, Asker
from eval.cases import Case
from eval.judge import Duel, Judge
from eval.metrics import PRIMARY, QUALITY, Score
from eval.results import Curve, Results
from eval.summary import Scored, summary
from retrieval.errors import InputError
from retrieval.files import content_id, write_text

if TYPE_CHECKING:
    from retrieval.encoder import Encoder

PROMPTS = ("plain", "short", "one-example", "three-examples")
MOST_TRIED = 24
"""Development cases that each prompt of each arm is tried on."""


@dataclass(frozen=True)
class Plan:
    """What is compared, and how."""

    cases: Sequence[Case]
    arms: Sequence[str]
    """Of `eval.asking.ARMS`; the first is the baseline, the second the candidate."""
    development: Sequence[Case] = ()
    """Cases that each arm's prompt is chosen on."""
    prompts: Sequence[str] = PROMPTS
    """To choose from; without development cases the first is taken."""
    primary: str = PRIMARY
    """The metric that decides."""
    perplexity: bool = False
    """Also measure how surprising each reference is to each arm: a request more for each answer."""
    about: str = ""
    """For the reader: what the cases are, and whether people or a program wrote them."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the case files, by name."""


@dataclass(frozen=True)
class Models:
    """What scores that need a model are made with; those without one are left out."""

    encoder: "Encoder | None" = None
    entailment: str | None = None
    """Folder or hub id of a cross-encoder for natural language inference."""
    judge: Judge | None = None


def evaluate(
    plan: Plan,
    asker: Asker,
    models: Models,
    folder: Path,
    lineage: Mapping[str, Any] | None = None,
    training: Sequence[Curve] = (),
    progress: bool = True,
) -> Results:
    """Ask, score, compare, and write the report, the cases and the answers to a folder of their own under `folder`.

    What was answered before is not asked again, so that a run that was stopped goes on.

    Raises:
        InputError: An arm, a prompt or the primary metric is unknown, or there are fewer than two arms.
        EngineError: The service went away.
    """
    if len(set(plan.arms)) < 2:
        raise InputError(f"{', '.join(plan.arms)}: name at least two arms; the first is what the second is compared to")
    for arm in plan.arms:
        asker.check(arm)
    _check_primary(plan)
    tried = {arm: develop(plan, arm, asker, progress) for arm in plan.arms}
    chosen = {arm: _way(plan, arm, tried[arm]) for arm in plan.arms}
    asked = asker.ask(plan.cases, list(dict.fromkeys(chosen.values())), progress)
    by_arm = {arm: _scored(plan.cases, asked, way, models, progress) for arm, way in chosen.items()}
    if plan.perplexity:
        for arm, way in chosen.items():
            _add_perplexity(plan.cases, by_arm[arm], way, asker, progress)
    judged = _judge(plan, by_arm, models.judge, progress) if models.judge else None
    said = written(each.answer for answers in by_arm.values() for each in answers.values())
    asked_of = json.dumps([case.model_dump() for case in plan.cases])
    judge = models.judge and (models.judge.url, models.judge.model)
    how = (str(models.entailment), str(tried), plan.primary, str(plan.perplexity), str(judge))
    results = summary(
        content_id(said, asked_of, *how),
        datetime.now(UTC).isoformat(timespec="seconds"),
        plan.cases,
        by_arm,
        tried,
        prompts={arm: way.partition("@")[2] or "plain" for arm, way in chosen.items()},
        primary=plan.primary,
        failed=[(case, arm) for arm, way in chosen.items() for case, failing in asked.failed if failing == way],
        about=plan.about,
        files=plan.files,
        lineage={
            **asker.parts,
            **(lineage or {}),
            "seed": SEED,
            "machine": platform.platform(),
            "memory": f"{(asker.memory_bytes or 0) / 2**30:.1f} GiB",
        },
        training=training,
        judge=judged,
    )
    _write(results, plan, by_arm, folder / results.id)
    return results


def _check_primary(plan: Plan) -> None:
    """Refuse a metric that cannot decide, before hours of asking; prompts are chosen by scores that need no model."""
    known = QUALITY if not plan.development or len(plan.prompts) < 2 else scorers.SCORERS
    if plan.primary not in known:
        raise InputError(f"unknown primary metric {plan.primary!r}; name one of {', '.join(known)}")


def develop(plan: Plan, arm: str, asker: Asker, progress: bool) -> dict[str, float]:
    """How often the arm is right with each prompt, on the development cases; empty where there is no choice.

    Right is to have every fact where an article answers, and to say so where none does.
    """
    if arm == "quoted" or not plan.development or len(plan.prompts) < 2:
        return {}
    cases = spread(plan.development, MOST_TRIED)
    ways = [_named(arm, prompt) for prompt in plan.prompts]
    asked = asker.ask(cases, ways, progress)
    rates = {}
    for prompt, way in zip(plan.prompts, ways, strict=True):
        answers = asked.of(way)
        metric = {True: plan.primary, False: "abstention"}
        values = [
            scorers.score(case, answers[case.id])[metric[case.answerable is not False]].value
            for case in cases
            if case.id in answers
        ]
        judged = [value for value in values if value is not None]
        rates[prompt] = sum(judged) / len(judged) if judged else 0.0
    return rates


def spread(cases: Sequence[Case], most: int) -> list[Case]:
    """At most so many of the cases, drawn by `SEED`, of each language and kind in turn."""
    kinds: dict[tuple[str | None, str | None], list[Case]] = {}
    for case in random.Random(SEED).sample(list(cases), len(cases)):
        kinds.setdefault((case.lang, case.slice), []).append(case)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*kinds.values()))
    return list(itertools.islice((case for case in turns if case), most))


def _way(plan: Plan, arm: str, tried: Mapping[str, float]) -> str:
    """With the best prompt; of equals the one that was named first."""
    if arm == "quoted":
        return arm
    return _named(arm, max(tried, key=tried.__getitem__) if tried else plan.prompts[0])


def _named(arm: str, prompt: str) -> str:
    return arm if prompt == "plain" else f"{arm}@{prompt}"


def scored(cases: Sequence[Case], answers: Mapping[str, Answer]) -> dict[str, Scored]:
    """The answers to `cases`, by case, with the scores that need no model; a case without an answer is left out."""
    return {
        case.id: Scored(answers[case.id], scorers.score(case, answers[case.id])) for case in cases if case.id in answers
    }


def _scored(cases: Sequence[Case], asked: Asked, way: str, models: Models, progress: bool) -> dict[str, Scored]:
    """The answers of a way with all their scores, by case."""
    answers = asked.of(way)
    kept = [case for case in cases if case.id in answers]
    found = scored(kept, answers)
    written_answers = [answers[case.id] for case in kept]
    if models.encoder:
        _add(found, kept, "similarity", scorers.similarities(kept, written_answers, models.encoder))
    if models.entailment:
        _add(found, kept, "grounded", scorers.entailments(kept, written_answers, models.entailment, progress))
    return found


def _add(found: dict[str, Scored], cases: Sequence[Case], metric: str, scores: Sequence[Score]) -> None:
    for case, score in zip(cases, scores, strict=True):
        found[case.id].scores[metric] = score


def _add_perplexity(cases: Sequence[Case], found: Mapping[str, Scored], way: str, asker: Asker, progress: bool) -> None:
    asked = [case for case in cases if case.id in found]
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        measured = pool.map(lambda case: asker.perplexity(case, way), asked)
        for case, score in zip(asked, tqdm(measured, way, len(asked), disable=not progress, unit="case"), strict=True):
            found[case.id].scores["reference perplexity"] = score


def _judge(plan: Plan, scored: Mapping[str, dict[str, Scored]], judge: Judge, progress: bool) -> dict[str, Any]:
    """Have the judge model compare candidate and baseline; its scores join the others, unless it cannot be used."""
    baseline, candidate = plan.arms[:2]
    first, second = scored[baseline], scored[candidate]
    cases = [case for case in plan.cases if case.id in first and case.id in second]
    duels = [_duel(case, first[case.id].answer, second[case.id].answer) for case in cases]
    verdicts = judge.compare(duels, (baseline, candidate), progress)
    for case, score in verdicts.scores().items():
        second[case].scores["judge"] = score
        first[case].scores["judge"] = score if score.value is None else replace(score, value=1 - score.value)
    return verdicts.as_dict()


def _duel(case: Case, first: Answer, second: Answer) -> Duel:
    said = "\n".join(f"{message['role']}: {message['content']}" for message in case.conversation())
    passages = {shown.text: shown.heading for answer in (first, second) for shown in answer.passages}
    text = "\n\n".join(f"{heading}\n{text}" for text, heading in passages.items())
    bare = (without_markers(answer.text).strip() for answer in (first, second))  # only some arms cite
    return Duel(case.id, said, case.reference, text, *bare)


def _write(results: Results, plan: Plan, scored: Mapping[str, dict[str, Scored]], folder: Path) -> None:
    """The report; beside it the cases, and every answer with its scores."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = "".join(_redacted(case).model_dump_json(exclude_defaults=True) + "\n" for case in plan.cases)
    write_text(folder / "cases.jsonl", cases)
    found = [(arm, each) for arm, answers in scored.items() for each in answers.values()]
    write_text(folder / "answers.jsonl", written(replace(each.answer, arm=arm) for arm, each in found))
    rows = (
        {"case": each.answer.case, "arm": arm}
        | {name: asdict(replace(score, evidence=redact(score.evidence))) for name, score in each.scores.items()}
        for arm, each in found
    )
    write_text(folder / "scores.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    report.write(results, folder)


def _redacted(case: Case) -> Case:
    """The case without personal data, one placeholder for each value of it."""
    redactor = Redactor()
    query = redactor(case.query) if case.query else case.query
    said = redactor.conversation([message.content for message in case.messages])
    messages = [message.model_copy(update={"content": text}) for message, text in zip(case.messages, said, strict=True)]
    told = {
        "reference": redactor(case.reference) if case.reference else case.reference,
        "facts": tuple(map(redactor, case.facts)),
        "forbidden": tuple(map(redactor, case.forbidden)),
    }
    return case.model_copy(update={"query": query, "messages": tuple(messages), **told})
