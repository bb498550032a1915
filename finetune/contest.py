"""Champion against challenger: the same cases, each with its own index, on one engine that holds both adapters."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from assistant.base_models import languages, served_folder
from assistant.chat import Assistant
from assistant.engine import Engine
from assistant.engine_process import EngineProcess
from assistant.live import training_record
from assistant.live_index import open_index
from assistant.policy import read_policy
from assistant.releases import Release
from assistant.trial import served
from eval import report, scorers
from eval.ab import scored, spread
from eval.answers import Answer
from eval.asking import Asker
from eval.cases import Case, read_cases
from eval.results import Results
from eval.summary import summary
from finetune import dataset, nights
from finetune.candidates import candidate
from finetune.course import Course
from finetune.turns import turn_of
from retrieval.files import sha256, write_text
from retrieval.index import Index

MOST_EARLIER = 100
"""Cases of earlier nights that are asked again, to see what was forgotten."""
WAY = "rag+lora"
"""How champion and challenger are asked: as customers are answered."""


def evaluate(course: Course, challenger: Release) -> tuple[Results, Results | None]:
    """Champion and challenger on the same cases, each with its own index, by one engine; the reports are written.

    The second results are those on what earlier nights held out, if there were any.
    """
    settings, plan = course.settings, course.plan
    folder, before = settings.evaluations / f"night-{course.id}", settings.evaluations / f"night-{course.id}-earlier"
    if (folder / "report.json").exists():
        return report.read(folder), report.read(before) if before.exists() else None
    frozen = read_cases(plan.cases, limit=plan.limit)
    answers: dict[str, dict[str, Answer]] = {}
    with _both(course, challenger) as assistants:
        held_out = _held_out(course, assistants["challenger"].index) if plan.held_out else []
        known = {case.id for case in (*frozen, *held_out)}
        earlier = [case for case in _earlier(course) if case.id not in known]
        for name, assistant in assistants.items():
            with served(assistant) as url:
                asker = Asker(url, settings.evaluations / "asked", max_tokens=plan.max_tokens, run=course.id)
                answers[name] = asker.ask([*frozen, *held_out, *earlier], [WAY]).of(WAY)
    write_text(
        course.folder / "held_out.jsonl", (f"{case.model_dump_json(exclude_defaults=True)}\n" for case in held_out)
    )
    results = _compared(course, challenger, [*frozen, *held_out], answers)
    report.write(results, folder)
    if not earlier:
        return results, None
    again = _compared(course, challenger, earlier, answers)
    report.write(again, before)
    return results, again


def _compared(
    course: Course, challenger: Release, cases: Sequence[Case], answers: dict[str, dict[str, Answer]]
) -> Results:
    by_name = {name: scored(cases, said) for name, said in answers.items()}
    return summary(
        f"night-{course.id}",
        datetime.now(UTC).isoformat(timespec="seconds"),
        cases,
        by_name,
        {},
        failed=[(case.id, name) for name, said in answers.items() for case in cases if case.id not in said],
        files={str(path): sha256(path) for path in course.plan.cases},
        lineage={"champion": asdict(course.champion), "challenger": asdict(challenger), "night": course.id},
    )


def _earlier(course: Course) -> list[Case]:
    """What nights whose release served held out, at most `MOST_EARLIER` of it."""
    root, live = course.nights, course.served()
    found: dict[str, Case] = {}
    for night in nights.read_all(root):
        path = root / night.id / "held_out.jsonl"
        if night.challenger in live and path.exists() and path.stat().st_size:
            found |= {case.id: case for case in read_cases(path)}
    return spread(list(found.values()), MOST_EARLIER)


def golden_missed(course: Course, challenger: Release) -> list[str]:
    """The golden questions whose facts the challenger does not have."""
    if not course.plan.golden:
        return []
    cases = read_cases(course.plan.golden)
    with _both(course, challenger) as assistants, served(assistants["challenger"]) as url:
        asker = Asker(url, course.settings.evaluations / "asked", max_tokens=course.plan.max_tokens)
        answers = asker.ask(cases, [WAY]).of(WAY)
    return [
        case.id for case in cases if case.id not in answers or not scorers.facts_present(case, answers[case.id].text)
    ]


@contextlib.contextmanager
def _both(course: Course, challenger: Release) -> Iterator[dict[str, Assistant]]:
    """Champion and challenger, on one engine of their own that holds both adapters."""
    settings, champion = course.settings, course.champion
    record = training_record(settings, str(challenger.adapter))
    base = served_folder(settings.base, settings.models, record["recipe"]["quantize"])
    adapters = {str(release.adapter): settings.adapters / str(release.adapter) for release in (champion, challenger)}
    process = EngineProcess(
        settings, base, str(champion.adapter), adapters[str(champion.adapter)], settings.logs / "nightly-engine.log"
    )
    process.adapters |= adapters
    policy = read_policy(settings.policy)
    opened = {id: open_index(settings, str(id)) for id in {champion.index, challenger.index}}
    try:
        process.start()
        yield {
            name: Assistant(
                release=release.id,
                index=opened[release.index],
                engine=Engine(process.url),
                adapter=str(release.adapter),
                languages=settings.base_languages or languages(settings.base),
                policy=policy,
                settings=settings,
            )
            for name, release in (("champion", champion), ("challenger", challenger))
        }
    finally:
        process.stop()
        for index in opened.values():
            index.close()


def _held_out(course: Course, index: Index) -> list[Case]:
    """What the challenger's training held out: the newest answers, as cases."""
    trained = course.folder / "train.json"
    run = json.loads(trained.read_text(encoding="utf-8")).get("run") if trained.exists() else None
    path = course.settings.runs / str(run) / dataset.FOLDER / "validation.jsonl"
    if not path.exists():
        return []
    turns = [turn_of(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    found = [candidate(turn, index, course.settings.passages, "held out", True).case for turn in turns]
    unique = {case.id: case for case in found}
    return [case for case in unique.values() if case.answerable and case.facts]
