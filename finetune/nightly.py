"""One night, top to bottom: the day's logs and feedback in, one of four words out.

articles → index
logs, transcripts since the last promotion → enough? → challenger trained → champion and challenger asked, paired
  → gate → golden questions → tried in the running service → promoted | waiting for a signature | kept | failed, with
  the reasons

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

from assistant import canary, pause, prompt, releases
from assistant.live import training_record
from assistant.live_index import open_index
from assistant.notification import notify
from assistant.redaction import redact_article
from assistant.releases import Release
from assistant.settings import Settings
from assistant.state import State
from eval import report
from eval.results import Arm
from finetune import contest, dataset, gate, night_metrics, nights, rollout
from finetune.adapter import unservable
from finetune.course import Course
from finetune.logs import log_files, read_columns
from finetune.measure import measure
from finetune.misses import misses
from finetune.nights import STEPS, Night, Topic
from finetune.plan import Plan
from finetune.recipe import Recipe, read_recipe
from finetune.run import train_on_logs
from retrieval.build import build
from retrieval.encoder import Encoder
from retrieval.errors import InputError, NotReady, StorageError, SupportError
from retrieval.files import content_id, sha256, write_text

MISSES_DAYS = 30
_LETS_GO_S = 60
"""What the engine may take to end, once the requests that run have been given `drain_s`."""


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
        InputError: The plan names what does not exist, an engine is to stop that is not ours, or no engine loads what
            the recipe makes.
    """
    if plan.serving == "stopped" and settings.engine_url:
        raise InputError(
            "the plan says serving: stopped, but the engine of ASSISTANT_ENGINE_URL is not the assistant's to stop; "
            "say serving: beside, and stop it around the night yourself"
        )
    refused = unservable(_recipe(plan).peft_fields)
    if refused:
        raise InputError(
            f"recipe {plan.recipe}: {refused}, and a night trains what the engine loads beside the champion"
        )
    with _only_one(settings.home / "nights"):
        _promote_last(settings)
        _clear_trial(settings)
        again = nights.read_all(settings.home / "nights")[-1:] if again_from else []
        champion = releases.read(settings.releases, again[0].champion) if again else releases.live(settings.releases)
        releases.require(champion, settings.base)
        _check_weights(settings, plan, champion)
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
            if not dry_run:
                nights.write_checked(settings.home / "nights", began)
                _write_metrics(course)
            return None
        say(f"night {course.id}: {new} new files and transcripts, {len(articles['changed'])} articles changed")
        if dry_run:
            return None
        stop: pause.Stop | None = None
        try:
            with _memory(course) as stop:
                night = _decide(course, logs, new, index_id, articles, began)
        except SupportError as error:
            night = _night(course, began, "failed", [str(error)], articles=articles)
        if stop:
            night = replace(night, counts=night.counts | _stopped(course, stop))
        night = replace(_tried(course, night), topics=_topics(course), misses=_missed(course))
        nights.write(course.nights, night)
        if night.word == "promoted":
            night = _live(course, night)
        canary.end(settings.releases)
        _tell(course, night)
        return night


def _check_weights(settings: Settings, plan: Plan, champion: Release) -> None:
    """Refuse to train on other weights than the champion's: one engine asks both, and serves both on trial."""
    planned = _recipe(plan).quantize
    trained = training_record(settings, str(champion.adapter))["recipe"]["quantize"]
    if planned != trained:
        raise InputError(
            f"recipe {plan.recipe}: quantize is {planned}, and the adapter that serves was trained with {trained}; "
            f"write quantize: {trained}, or train with assistant train and promote that adapter by hand first"
        )


def _memory(course: Course) -> contextlib.AbstractContextManager[pause.Stop | None]:
    """What the service's engine holds, where the plan says that it stops for the night."""
    settings = course.settings
    if course.plan.serving == "beside":
        return contextlib.nullcontext()
    course.say("the service's engine stops; passages are quoted meanwhile")
    return pause.stopped(settings.home, f"night {course.id}", settings.drain_s + _LETS_GO_S)


def _stopped(course: Course, stop: pause.Stop) -> dict[str, int]:
    """How long customers had no engine; waits until they have one again."""
    settings = course.settings
    seconds = pause.stopped_s(stop, settings.engine_start_s)
    if seconds is None:
        log = settings.logs / "engine.log"
        course.say(f"the engine does not serve {settings.engine_start_s} s after it was allowed to; its log: {log}")
        return {}
    course.say(f"the engine was away for {seconds:.0f} s")
    return {"engine_stopped_s": round(seconds)}


def _missed(course: Course) -> list[Topic]:
    """What customers asked in the last `MISSES_DAYS` days and no passage answered; that it fails undoes no night."""
    settings = course.settings
    try:
        with contextlib.closing(State(settings.database_url)) as state:
            encoder = Encoder(settings.encoder, settings.models)
            return misses(state, datetime.now(UTC) - timedelta(days=MISSES_DAYS), encoder)
    except SupportError as error:
        course.say(f"what no passage answered is not known: {error}")
        return []


def _topics(course: Course) -> list[Topic]:
    """What the answers of the night's run are about; none if nothing was trained."""
    return dataset.found_topics(course.trained_in) if course.trained_in else []


def _tell(course: Course, night: Night) -> None:
    """Whoever watches: a webhook, Prometheus. That they cannot be told does not undo the night."""
    plan, secret = course.plan, os.environ.get("ASSISTANT_WEBHOOK_SECRET", "")
    _write_metrics(course)
    if plan.webhook:
        event = {"event": f"nightly.{night.word}", "night": night.id, "at": night.at, "reasons": night.reasons}
        if refused := notify(plan.webhook, secret, event):
            course.say(f"the webhook was not told: {refused}")


def _write_metrics(course: Course) -> None:
    if not course.plan.textfile:
        return
    ended, checked = nights.read_all(course.nights), nights.read_checked(course.nights)
    try:
        night_metrics.write_textfile(course.plan.textfile, ended, checked)
    except StorageError as error:
        course.say(f"Prometheus was not told: {error}")


def _ended(folder: Path) -> bool:
    """The night was done; one that failed is tried again."""
    path = folder / "night.json"
    return path.exists() and nights.read(path).word != "failed"


def _promote_last(settings: Settings) -> None:
    """Make the last night's challenger live, if it won; a crash may have come between the word and the deed."""
    last = nights.read_all(settings.home / "nights")[-1:]
    if not last or last[0].word != "promoted":
        return
    challenger, changes = str(last[0].challenger), [entry.release for entry in releases.history(settings.releases)]
    # The history is written before the pointer.
    halfway = changes[-1:] == [challenger] and releases.live(settings.releases).id != challenger
    if challenger not in changes or halfway:
        releases.promote(settings.releases, challenger)


def _clear_trial(settings: Settings) -> None:
    """Take away what a night that was killed left on trial, where nobody goes on with it."""
    trial = canary.read(settings.releases)
    if trial is None or trial.release in {entry.release for entry in releases.history(settings.releases)}:
        canary.end(settings.releases)


def _tried(course: Course, night: Night) -> Night:
    """The night after its challenger was on trial in the running service, if it may go live."""
    if night.word != "promoted":
        return night
    try:
        with course.step("canary"):
            found = course.kept("canary", lambda: rollout.tried(course, str(night.challenger)))
    except SupportError as error:
        return replace(night, word="failed", reasons=[str(error)], metrics={})
    night = replace(night, reasons=[*night.reasons, *found["told"]], steps=course.steps)
    if not found["refused"]:
        return night
    release = releases.read(course.settings.releases, str(night.challenger))
    _propose(course.settings, release, needs_approval=True)
    champion = report.read(course.settings.evaluations / str(night.evaluation)).arms[0]
    return replace(night, word="kept", reasons=found["refused"], metrics=_means(champion))


def _live(course: Course, night: Night) -> Night:
    """The night, once its challenger is live."""
    releases.promote(course.settings.releases, str(night.challenger))
    canary.end(course.settings.releases)  # the service takes over what it has on trial
    if late := rollout.late(course, str(night.challenger)):
        night = replace(night, reasons=[*night.reasons, late])
        nights.write(course.nights, night)
    return night


def _decide(
    course: Course, logs: Sequence[Path], new: int, index_id: str, articles: dict[str, list[str]], began: str
) -> Night:
    champion = course.champion
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
    night = _judged(course, challenger, reasons, articles, began)
    if night.word == "kept" and adapter != champion.adapter and index_id != champion.index:
        course.say("the articles changed all the same: the champion's adapter is tried with them")
        refused = [f"adapter {adapter}: {reason}" for reason in night.reasons]
        night = _judged(course, replace(challenger, adapter=champion.adapter), refused, articles, began)
    return night


def _judged(
    course: Course, challenger: Release, reasons: Sequence[str], articles: dict[str, list[str]], began: str
) -> Night:
    """Champion against challenger: the night's word, and why, after the `reasons` that stand already."""
    settings, plan, champion = course.settings, course.plan, course.champion
    course.say(
        f"champion {champion.adapter} on {champion.index}, challenger {challenger.adapter} on {challenger.index}"
    )
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
    why = [f"golden question {case}: a fact is missing" for case in missed] or why
    promoted = passed and not missed
    judged = replace(challenger, report=results.id, night=course.id)
    proposed = _propose(settings, judged, needs_approval=plan.signature or not promoted)
    word: nights.Word = "kept"
    if promoted:
        word = "waiting" if plan.signature else "promoted"
    serving = results.arms[1 if word == "promoted" else 0]
    return _night(
        course,
        began,
        word,
        [*reasons, *why],
        challenger=proposed.id,
        adapter=challenger.adapter,
        evaluation=results.id,
        rulings=rulings,
        metrics=_means(serving),
        articles=articles,
    )


def _propose(settings: Settings, release: Release, needs_approval: bool) -> Release:
    parts = {name: value for name, value in asdict(release).items() if value is not None}
    return releases.propose(settings.releases, needs_approval, **parts)


def _means(arm: Arm) -> dict[str, float]:
    return {name: interval.mean for name, interval in arm.metrics.items()}


def _night(course: Course, began: str, word: nights.Word, reasons: Sequence[str], **more: Any) -> Night:
    night = Night(course.id, began, word, list(reasons), course.champion.id, terms=course.terms)
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
        if night.challenger in live and night.id != course.again and _has_learned(root / night.id, night)
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
    planned = plan.model_dump_json(exclude={"serving", "service"})
    course.terms = content_id(course.champion.adapter or "", recipe, rules, *cases, planned)
    course.id = content_id(course.champion.id, index_id, *parts, course.terms)
    course.folder = root / course.id
    write_text(course.folder / "collected.json", json.dumps(parts) + "\n")
    course.counts["new"] = len(parts)
    logs = list(new_files)
    if new_lines:
        transcripts = course.folder / "transcripts.jsonl"
        write_text(transcripts, (f"{line}\n" for line in new_lines))
        logs.append(transcripts)
    return logs, len(parts)


def _has_learned(folder: Path, night: Night) -> bool:
    """Whether the night's release has the adapter that the night trained, not its articles alone."""
    trained = folder / "train.json"
    return trained.exists() and json.loads(trained.read_text(encoding="utf-8"))["adapter"] == night.adapter


def _train(course: Course, logs: Sequence[Path], index_id: str) -> dict[str, Any]:
    """The challenger's adapter; or why there is none."""
    settings, plan, recipe = course.settings, course.plan, _recipe(course.plan)
    release = Release(index_id, course.champion.adapter, course.champion.base, course.champion.prompt)
    tried = _tried_before(course)
    transcripts = [path for path in logs if path.parent == course.folder]
    try:
        result = train_on_logs(
            settings,
            [*plan.logs, *transcripts],
            recipe,
            course.say,
            columns=read_columns(plan.columns) if plan.columns else None,
            only=frozenset(logs),
            cases=(*plan.cases, *plan.golden),
            release=release,
            least=tried + plan.least_answers,
            twins_aside=True,
        )
    except NotReady as error:
        known = f"; of the last try, which is not live, {tried} are known" if tried else ""
        return {"adapter": None, "reason": f"{error}{known}", "counts": {}}
    assert result is not None, "one process only"
    record = training_record(settings, result.adapter)
    counts = record["data"] | dataset.taken_out(record["data"])
    return {"adapter": result.adapter, "reason": "", "counts": counts, "run": record["run"]}


def _recipe(plan: Plan) -> Recipe:
    return read_recipe(plan.recipe) if plan.recipe else read_recipe(None, replay_share=0.5)


def _tried_before(course: Course) -> int:
    """How many answers the last challenger on these terms learned; had it gone live, the terms would be others."""
    if course.again:
        return 0
    same = [night for night in nights.read_all(course.nights) if night.terms == course.terms and night.word != "failed"]
    trained = [course.nights / night.id / "train.json" for night in same if night.id != course.id]
    outcomes = [json.loads(path.read_text(encoding="utf-8")) for path in trained if path.exists()]
    runs = [course.settings.runs / outcome["run"] for outcome in outcomes if outcome["adapter"]]
    return dataset.answers(runs[-1]) if runs and runs[-1].is_dir() else 0


def _measured(settings: Settings, adapter: str, wanted: bool) -> dict[str, float]:
    """What training made the adapter forget, and which secrets it gives away; nothing unless it is `wanted`."""
    if not wanted:
        return {}
    found = measure(settings.adapters, adapter, settings.runs, settings.models, progress=False)
    return gate.figures(found.as_dict())


def _forget(course: Course, step: str) -> None:
    anew = STEPS[STEPS.index(step) :]
    if "train" in anew and course.trained_in:
        (course.trained_in / "result.json").unlink(missing_ok=True)  # or the run would be taken as it ended
    for name in anew:
        (course.folder / f"{name}.json").unlink(missing_ok=True)
        if name == "evaluate":
            for report_file in course.settings.evaluations.glob(f"night-{course.id}*/report.json"):
                report_file.unlink()
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
