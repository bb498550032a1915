"""Champion against challenger: the same cases, each with its own index, on one engine that holds both adapters."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from assistant.base_models import languages, served_folder
from assistant.chat import Assistant
from assistant.engine import Engine
from assistant.engine_process import EngineProcess
from assistant.live import training_record
from assistant.live_index import open_index
from assistant.policy import read_policy
from assistant.releases import Release
from assistant.settings import Settings
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
    name = f"night-{course.id}" + ("" if challenger.adapter != course.champion.adapter else "-articles")
    folder, before = settings.evaluations / name, settings.evaluations / f"{name}-earlier"
    if (folder / "report.json").exists():
        return report.read(folder), report.read(before) if (before / "report.json").exists() else None
    frozen = read_cases(plan.cases, limit=plan.limit)
    answers: dict[str, dict[str, Answer]] = {}
    with both(course, challenger) as assistants:
        held_out = _held_out(course, assistants["challenger"].index) if plan.held_out else []
        known = {case.id for case in (*frozen, *held_out)}
        earlier = [case for case in _earlier(course) if case.id not in known]
        for arm, assistant in assistants.items():
            with served(assistant) as url:
                asker = Asker(url, settings.evaluations / "asked", max_tokens=plan.max_tokens, run=course.id)
                answers[arm] = asker.ask([*frozen, *held_out, *earlier], [WAY]).of(WAY)
    write_text(
        course.folder / "held_out.jsonl", (f"{case.model_dump_json(exclude_defaults=True)}\n" for case in held_out)
    )
    results = _compared(course, name, challenger, [*frozen, *held_out], answers)
    again = _compared(course, f"{name}-earlier", challenger, earlier, answers) if earlier else None
    if again:
        report.write(again, before)
    report.write(results, folder)  # last: a night that goes on takes its `report.json` for all of it
    return results, again


def _compared(
    course: Course, name: str, challenger: Release, cases: Sequence[Case], answers: dict[str, dict[str, Answer]]
) -> Results:
    by_name = {arm: scored(cases, said) for arm, said in answers.items()}
    return summary(
        name,
        datetime.now(UTC).isoformat(timespec="seconds"),
        cases,
        by_name,
        {},
        failed=[(case.id, arm) for arm, said in answers.items() for case in cases if case.id not in said],
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
    with both(course, challenger) as assistants, served(assistants["challenger"]) as url:
        asker = Asker(url, course.settings.evaluations / "asked", max_tokens=course.plan.max_tokens)
        answers = asker.ask(cases, [WAY]).of(WAY)
    return [
        case.id for case in cases if case.id not in answers or not scorers.facts_present(case, answers[case.id].text)
    ]


@contextlib.contextmanager
def both(course: Course, challenger: Release) -> Iterator[dict[str, Assistant]]:
    """Champion and challenger, on one engine that holds both adapters."""
    settings, champion = course.settings, course.champion
    policy = read_policy(settings.policy)
    opened = {id: open_index(settings, str(id)) for id in {champion.index, challenger.index}}
    try:
        with _engine(settings, champion, challenger) as url:
            yield {
                name: Assistant(
                    release=release.id,
                    index=opened[release.index],
                    engine=Engine(url),
                    adapter=str(release.adapter),
                    languages=settings.base_languages or languages(settings.base),
                    policy=policy,
                    settings=settings,
                )
                for name, release in (("champion", champion), ("challenger", challenger))
            }
    finally:
        for index in opened.values():
            index.close()


@contextlib.contextmanager
def _engine(settings: Settings, *tried: Release) -> Iterator[str]:
    """The address of an engine that holds the adapters: the one of the settings, or one of its own."""
    folders = {str(release.adapter): settings.adapters / str(release.adapter) for release in tried}
    if settings.engine_url:
        new = asyncio.run(_load(settings.engine_url, folders))
        try:
            yield settings.engine_url
        finally:
            asyncio.run(_unload(settings.engine_url, new))
        return
    first, last = str(tried[0].adapter), training_record(settings, str(tried[-1].adapter))
    base = served_folder(settings.base, settings.models, last["recipe"]["quantize"])
    process = EngineProcess(settings, base, first, folders[first], settings.logs / "nightly-engine.log")
    process.adapters |= folders
    try:
        process.start()
        yield process.url
    finally:
        process.stop()


async def _load(url: str, folders: Mapping[str, Path]) -> list[str]:
    """Have the engine serve the adapters; returned are those that it did not before."""
    engine = Engine(url)
    try:
        new = [name for name in folders if name not in await engine.models()]
        for name in new:
            await engine.load(name, folders[name])
        return new
    finally:
        await engine.close()


async def _unload(url: str, names: Sequence[str]) -> None:
    engine = Engine(url)
    try:
        for name in names:
            await engine.unload(name)
    finally:
        await engine.close()


def _held_out(course: Course, index: Index) -> list[Case]:
    """What the challenger's training held out: the newest answers, as cases."""
    turns = dataset.turns_of(course.trained_in, "validation") if course.trained_in else []
    found = [candidate(turn, index, course.settings.passages, "held out", True).case for turn in turns]
    unique = {case.id: case for case in found}
    return [case for case in unique.values() if case.answerable and case.facts]
