"""One night, top to bottom: the day's logs and feedback in, one of four words out.

articles → index
logs, transcripts since the last promotion → enough? → challenger trained → champion and challenger asked, paired
  → gate → golden questions → promoted | waiting for a signature | kept | failed, with the reasons

Every step's outcome is kept under `nights/<id>/`, and the id names what went in: the same night again goes on where it
was, and a night without anything new does nothing.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from assistant import prompt, releases
from assistant.live import training_record
from assistant.live_index import open_index
from assistant.notification import notify
from assistant.redaction import redact_article
from assistant.releases import Release
from assistant.settings import Settings
from assistant.state import State
from finetune import contest, gate, night_metrics, nights
from finetune.course import Course
from finetune.logs import log_files, read_columns
from finetune.measure import measure
from finetune.misses import misses
from finetune.nights import STEPS, Night, Topic
from finetune.plan import Plan
from finetune.recipe import read_recipe
from finetune.run import train_on_logs
from retrieval.build import build
from retrieval.encoder import Encoder
from retrieval.errors import NotReady, SupportError
from retrieval.files import content_id, sha256, write_text

MISSES_DAYS = 30


class Busy(SupportError):
    """Another night is running."""


def nightly(
    settings: Settings,
    plan: Plan,
    say: Callable[[str], None],
    dry_run: bool = False,
    again_from: str | None = None,
) -> Night | None:
    """Do a night; None where nothing is new since the last one, or with `dry_run`, which only says what it would do.

    `again_from` names a step of `STEPS`: the last night is done again, that step and those after it anew.

    Raises:
        Busy: Another night is running.
        NotReady: Nothing serves yet that could be a champion.
        InputError: The plan names what does not exist.
    """
    with _only_one(settings.home / "nights"):
        _promote_last(settings)
        again = nights.read_all(settings.home / "nights")[-1:] if again_from else []
        champion = releases.read(settings.releases, again[0].champion) if again else releases.live(settings.releases)
        releases.require(champion, settings.base)
        course = Course(settings, plan, champion, say, again=again[0].id if again else None)
        began = datetime.now(UTC).isoformat(timespec="seconds")
        with course.step("index"):
            index_id, articles = _index(course)
        with course.step("collect"):
            logs, new = _collect(course, index_id)
        if again_from:
            _forget(course, again_from)
        elif _ended(course.folder) or (not new and index_id == champion.index):
            say("nothing is new since the last night")
            return None
        say(f"night {course.id}: {new} new files and transcripts, {len(articles['changed'])} articles changed")
        if dry_run:
            return None
        try:
            night = _decide(course, logs, new, index_id, articles, began)
        except SupportError as error:
            night = _night(course, began, "failed", [str(error)], articles=articles)
        night = replace(night, misses=_missed(settings))
        nights.write(settings.home / "nights", night)
        if night.word == "promoted":
            releases.promote(settings.releases, str(night.challenger))
        _tell(course, night)
        return night


def _missed(settings: Settings) -> list[Topic]:
    """What customers asked in the last `MISSES_DAYS` days and no passage answered."""
    state = State(settings.database_url)
    try:
        encoder = Encoder(settings.encoder, settings.models)
        return misses(state, datetime.now(UTC) - timedelta(days=MISSES_DAYS), encoder)
    finally:
        state.close()


def _tell(course: Course, night: Night) -> None:
    """Whoever watches: a webhook, Prometheus. That they cannot be told does not undo the night."""
    plan, secret = course.plan, os.environ.get("ASSISTANT_WEBHOOK_SECRET", "")
    if plan.textfile:
        night_metrics.write_textfile(plan.textfile, nights.read_all(course.settings.home / "nights"))
    if plan.webhook:
        event = {"event": f"nightly.{night.word}", "night": night.id, "at": night.at, "reasons": night.reasons}
        if refused := notify(plan.webhook, secret, event):
            course.say(f"the webhook was not told: {refused}")


def _ended(folder: Path) -> bool:
    """The night was done; one that failed is tried again."""
    path = folder / "night.json"
    return path.exists() and nights.read(path).word != "failed"


def _promote_last(settings: Settings) -> None:
    """Make the last night's challenger live, if it won; a crash may have come between the word and the deed."""
    last = nights.read_all(settings.home / "nights")[-1:]
    served = {entry.release for entry in releases.history(settings.releases)}
    if last and last[0].word == "promoted" and last[0].challenger not in served:
        releases.promote(settings.releases, str(last[0].challenger))


def _decide(
    course: Course, logs: Sequence[Path], new: int, index_id: str, articles: dict[str, list[str]], began: str
) -> Night:
    settings, plan, champion, say = course.settings, course.plan, course.champion, course.say
    reasons: list[str] = []
    adapter = champion.adapter
    if new:
        with course.step("train"):
            trained = course.kept("train", lambda: _train(course, logs, index_id))
        course.counts |= trained["counts"]
        if trained["adapter"]:
            adapter = trained["adapter"]
        else:
            reasons.append(trained["reason"])
    challenger = Release(index=index_id, adapter=adapter, base=champion.base, prompt=prompt.ID)
    if (challenger.index, challenger.adapter) == (champion.index, champion.adapter):
        return _night(
            course, began, "kept", reasons or ["nothing to train on, and no article changed"], articles=articles
        )
    say(f"champion {champion.adapter} on {champion.index}, challenger {challenger.adapter} on {challenger.index}")
    with course.step("evaluate"):
        results, earlier = contest.evaluate(course, challenger)
    figures: dict[str, float] | None = None
    if challenger.adapter != champion.adapter:
        with course.step("measure"):
            figures = course.kept("measure", lambda: _measured(settings, str(challenger.adapter), plan.measured))
    with course.step("gate"):
        rules = gate.read_rules(plan.gate)
        rulings = gate.judge_articles(rules, results) if figures is None else gate.judge(rules, results, figures)
        if earlier:
            rulings += gate.judge_earlier(rules, "earlier nights", earlier)
        passed, why = gate.verdict(rulings)
        missed = contest.golden_missed(course, challenger) if passed else []
    reasons += [f"golden question {case}: a fact is missing" for case in missed] or why
    promoted = passed and not missed
    proposed = releases.propose(
        settings.releases,
        report=results.id,
        night=course.id,
        needs_approval=plan.signature or not promoted,
        **{name: value for name, value in asdict(challenger).items() if value is not None},
    )
    word: nights.Word = "kept"
    if promoted:
        word = "waiting" if plan.signature else "promoted"
    serving = results.arms[1 if word == "promoted" else 0]
    return _night(
        course,
        began,
        word,
        reasons,
        challenger=proposed.id,
        adapter=challenger.adapter,
        evaluation=results.id,
        rulings=rulings,
        metrics={name: interval.mean for name, interval in serving.metrics.items()},
        articles=articles,
    )


def _night(course: Course, began: str, word: nights.Word, reasons: Sequence[str], **more: Any) -> Night:
    night = Night(id=course.id, at=began, word=word, reasons=list(reasons), champion=course.champion.id)
    return replace(night, steps=course.steps, counts=course.counts, **more)


def _index(course: Course) -> tuple[str, dict[str, list[str]]]:
    """The index of the articles as they are now, not live yet; and which changed."""
    settings, plan = course.settings, course.plan
    served_id = str(course.champion.index)
    if not plan.knowledge:
        return served_id, {"added": [], "changed": [], "removed": []}
    built = build(
        plan.knowledge,
        settings.indexes,
        Encoder(settings.encoder, settings.models),
        redact_article,
        exclude=plan.exclude,
        false_miss_rate=settings.false_miss_rate,
        small=settings.small_index,
        progress=False,
    )
    if built.id == served_id:
        return served_id, {"added": [], "changed": [], "removed": []}
    before, now = (_articles(settings, name) for name in (served_id, built.id))
    return built.id, {
        "added": sorted(now.keys() - before.keys()),
        "changed": sorted(path for path in now.keys() & before.keys() if now[path] != before[path]),
        "removed": sorted(before.keys() - now.keys()),
    }


def _articles(settings: Settings, index_id: str) -> dict[str, str]:
    """The articles of an index, and what names their content."""
    index = open_index(settings, index_id)
    try:
        found = {path: index.article(path) for path in index.paths()}
        return {path: content_id(article.text) for path, article in found.items() if article}
    finally:
        index.close()


def _collect(course: Course, index_id: str) -> tuple[list[Path], int]:
    """The logs to learn from, and how many of their parts no release that served has learned; names the night."""
    settings, plan = course.settings, course.plan
    root = settings.home / "nights"
    state = State(settings.database_url)
    try:
        lines = [json.dumps(line, ensure_ascii=False, sort_keys=True) for line in state.export()]
    finally:
        state.close()
    live = course.served()
    learned = {
        part
        for night in nights.read_all(root)
        if night.challenger in live and night.id != course.again
        for part in json.loads((root / night.id / "collected.json").read_text(encoding="utf-8"))
    }
    files = {sha256(path): path for path in (log_files(plan.logs) if plan.logs else ())}
    spoken = {content_id(line): line for line in lines}
    new_files = [path for digest, path in files.items() if digest not in learned]
    new_lines = [line for digest, line in spoken.items() if digest not in learned]
    parts = sorted((*(d for d in files if d not in learned), *(d for d in spoken if d not in learned)))
    recipe = sha256(plan.recipe) if plan.recipe else ""
    rules = sha256(plan.gate) if plan.gate else ""
    cases = [sha256(path) for path in (*plan.cases, *plan.golden)]
    course.id = content_id(course.champion.id, index_id, *parts, recipe, rules, *cases, plan.model_dump_json())
    course.folder = root / course.id
    write_text(course.folder / "collected.json", json.dumps(parts) + "\n")
    course.counts["new"] = len(parts)
    logs = list(new_files)
    if new_lines:
        transcripts = course.folder / "transcripts.jsonl"
        write_text(transcripts, (f"{line}\n" for line in new_lines))
        logs.append(transcripts)
    return logs, len(parts)


def _train(course: Course, logs: Sequence[Path], index_id: str) -> dict[str, Any]:
    """The challenger's adapter; or why there is none."""
    settings, plan = course.settings, course.plan
    recipe = read_recipe(plan.recipe) if plan.recipe else read_recipe(None, replay_share=0.5)
    release = Release(index_id, course.champion.adapter, course.champion.base, course.champion.prompt)
    try:
        result = train_on_logs(
            settings,
            logs,
            recipe,
            course.say,
            columns=read_columns(plan.columns) if plan.columns else None,
            cases=(*plan.cases, *plan.golden),
            release=release,
            least=plan.least_answers,
        )
    except NotReady as error:
        return {"adapter": None, "reason": str(error), "counts": {}}
    assert result is not None, "one process only"
    record = training_record(settings, result.adapter)
    return {"adapter": result.adapter, "reason": "", "counts": record["data"], "run": record["run"]}


def _measured(settings: Settings, adapter: str, wanted: bool) -> dict[str, float]:
    """What training made the adapter forget, and which secrets it gives away; nothing unless it is `wanted`."""
    if not wanted:
        return {}
    found = measure(settings.adapters, adapter, settings.runs, settings.models, progress=False)
    return gate.figures(found.as_dict())


def _forget(course: Course, step: str) -> None:
    for name in STEPS[STEPS.index(step) :]:
        (course.folder / f"{name}.json").unlink(missing_ok=True)
        if name == "evaluate":
            (course.settings.evaluations / f"night-{course.id}" / "report.json").unlink(missing_ok=True)
    (course.folder / "night.json").unlink(missing_ok=True)


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise Busy(f"another night is running, {lock.read().strip()}; this one leaves") from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n")
        lock.flush()
        yield
