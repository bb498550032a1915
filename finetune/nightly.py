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
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from assistant import prompt, releases
from assistant.base_models import languages, served_folder
from assistant.chat import Assistant
from assistant.engine import Engine
from assistant.engine_process import EngineProcess
from assistant.live import training_record
from assistant.live_index import open_index
from assistant.notification import notify
from assistant.policy import read_policy
from assistant.redaction import redact_article
from assistant.releases import Release
from assistant.settings import Settings
from assistant.state import State
from assistant.trial import served
from eval import report, scorers
from eval.ab import spread
from eval.answers import Answer
from eval.asking import Asker
from eval.cases import Case, read_cases
from eval.results import Results
from eval.summary import Scored, summary
from finetune import dataset, gate, night_metrics, nights
from finetune.candidates import candidate
from finetune.logs import log_files, read_columns
from finetune.measure import measure
from finetune.misses import misses
from finetune.nights import STEPS, Night, Step, Topic
from finetune.recipe import read_recipe
from finetune.run import train_on_logs
from finetune.turns import turn_of
from retrieval.build import build
from retrieval.encoder import Encoder
from retrieval.errors import InputError, NotReady, SupportError
from retrieval.files import content_id, sha256, write_text
from retrieval.index import Index

MISSES_DAYS = 30
MOST_EARLIER = 100
"""Cases of earlier nights that are asked again, to see what was forgotten."""
WAY = "rag+lora"
"""How champion and challenger are asked: as customers are answered."""


class Busy(SupportError):
    """Another night is running."""


class Plan(BaseModel):
    """`nightly.yaml`: where a night's data are, and what it takes to be promoted. Paths are relative to the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    knowledge: tuple[Path, ...] = Field((), description="Articles, indexed anew when they changed; none: as they are.")
    exclude: tuple[str, ...] = Field((), description="Files and folders of them to leave out.")
    logs: tuple[Path, ...] = Field((), description="Folders and files of support logs, beside the transcripts.")
    columns: Path | None = Field(None, description="What the columns of ticket exports hold.")
    cases: tuple[Path, ...] = Field(description="Frozen cases that champion and challenger are asked.", min_length=1)
    golden: tuple[Path, ...] = Field((), description="Cases that every release must answer with all facts.")
    recipe: Path | None = Field(None, description="Of the training; by default ours, with replay.")
    gate: Path | None = Field(None, description="Rules of promotion; by default finetune/gate.yaml.")
    least_answers: int = Field(50, ge=1, description="Answers to learn from under which nothing is trained.")
    held_out: bool = Field(True, description="Also ask what training held out: the newest answers.")
    measured: bool = Field(True, description="Measure forgetting and memorised secrets; rules may ask for it.")
    max_tokens: int | None = Field(None, ge=1, description="Longest answer to a case; by default the service's.")
    webhook: str | None = Field(
        None, description="Address that is told how the night ended, signed with ASSISTANT_WEBHOOK_SECRET."
    )
    textfile: Path | None = Field(None, description="File ending in .prom for node_exporter's textfile collector.")
    signature: bool = Field(False, description="A person has to approve: assistant release approve.")
    limit: int | None = Field(None, ge=1, description="Frozen cases asked at most, drawn with a fixed seed.")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, fields: Any) -> Any:
        return fields if fields is not None else {}


def read_plan(path: Path) -> Plan:
    """
    Raises:
        InputError: The file is missing, is not YAML, or a field is not what it should be.
    """
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
        plan = Plan.model_validate(fields)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"the plan {path} cannot be read: {reason}; write one such as\n"
            "  knowledge: [knowledge]\n  logs: [logs]\n  cases: [cases.jsonl]"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"the plan {path} field {name!r}: {first['msg']}; fields: {', '.join(Plan.model_fields)}"
        ) from None

    def beside(paths: Sequence[Path]) -> tuple[Path, ...]:
        return tuple(path.parent / each for each in paths)

    return plan.model_copy(
        update={
            **{name: beside(getattr(plan, name)) for name in ("knowledge", "logs", "cases", "golden")},
            **{
                name: path.parent / found
                for name in ("columns", "recipe", "gate", "textfile")
                if (found := getattr(plan, name)) is not None
            },
        }
    )


@dataclass
class _Course:
    """A night on its way: what it knows so far."""

    settings: Settings
    plan: Plan
    champion: Release
    say: Callable[[str], None]
    again: str | None = None
    """The night that is done again."""
    id: str = ""
    folder: Path = Path()
    steps: list[Step] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure what a step takes."""
        self.say(f"{name} …")
        started, cpu_s = time.monotonic(), _cpu_s()
        with _peak() as peak:
            yield
        taken = time.monotonic() - started
        self.steps.append(Step(name, round(taken, 2), round(_cpu_s() - cpu_s, 2), peak[0]))
        self.say(f"{name}: {taken:.0f} s")

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` made in this night, now or before a crash: JSON, written whole or not at all."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            write_text(path, json.dumps(make(), ensure_ascii=False, indent=1) + "\n")
        return json.loads(path.read_text(encoding="utf-8"))


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
        course = _Course(settings, plan, champion, say, again=again[0].id if again else None)
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


def _tell(course: _Course, night: Night) -> None:
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
    if last and last[0].word == "promoted" and last[0].challenger not in _served(settings):
        releases.promote(settings.releases, str(last[0].challenger))


def _served(settings: Settings) -> set[str]:
    """The releases that were live at some time."""
    return {entry.release for entry in releases.history(settings.releases)}


def _decide(
    course: _Course, logs: Sequence[Path], new: int, index_id: str, articles: dict[str, list[str]], began: str
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
        results, earlier = _evaluate(course, challenger)
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
        missed = _golden_missed(course, challenger) if passed else []
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


def _night(course: _Course, began: str, word: nights.Word, reasons: Sequence[str], **more: Any) -> Night:
    night = Night(id=course.id, at=began, word=word, reasons=list(reasons), champion=course.champion.id)
    return replace(night, steps=course.steps, counts=course.counts, **more)


def _index(course: _Course) -> tuple[str, dict[str, list[str]]]:
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


def _collect(course: _Course, index_id: str) -> tuple[list[Path], int]:
    """The logs to learn from, and how many of their parts no release that served has learned; names the night."""
    settings, plan = course.settings, course.plan
    root = settings.home / "nights"
    state = State(settings.database_url)
    try:
        lines = [json.dumps(line, ensure_ascii=False, sort_keys=True) for line in state.export()]
    finally:
        state.close()
    live = _served(settings)
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


def _train(course: _Course, logs: Sequence[Path], index_id: str) -> dict[str, Any]:
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


def _evaluate(course: _Course, challenger: Release) -> tuple[Results, Results | None]:
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
    course: _Course, challenger: Release, cases: Sequence[Case], answers: dict[str, dict[str, Answer]]
) -> Results:
    scored = {
        name: {case.id: Scored(said[case.id], scorers.score(case, said[case.id])) for case in cases if case.id in said}
        for name, said in answers.items()
    }
    return summary(
        f"night-{course.id}",
        datetime.now(UTC).isoformat(timespec="seconds"),
        cases,
        scored,
        {},
        failed=[(case.id, name) for name, said in answers.items() for case in cases if case.id not in said],
        files={str(path): sha256(path) for path in course.plan.cases},
        lineage={"champion": asdict(course.champion), "challenger": asdict(challenger), "night": course.id},
    )


def _earlier(course: _Course) -> list[Case]:
    """What nights whose release served held out, at most `MOST_EARLIER` of it."""
    root, live = course.settings.home / "nights", _served(course.settings)
    found: dict[str, Case] = {}
    for night in nights.read_all(root):
        path = root / night.id / "held_out.jsonl"
        if night.challenger in live and path.exists() and path.stat().st_size:
            found |= {case.id: case for case in read_cases(path)}
    return spread(list(found.values()), MOST_EARLIER)


@contextlib.contextmanager
def _both(course: _Course, challenger: Release) -> Iterator[dict[str, Assistant]]:
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


def _held_out(course: _Course, index: Index) -> list[Case]:
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


def _measured(settings: Settings, adapter: str, wanted: bool) -> dict[str, float]:
    """What training made the adapter forget, and which secrets it gives away; nothing unless it is `wanted`."""
    if not wanted:
        return {}
    found = measure(settings.adapters, adapter, settings.runs, settings.models, progress=False)
    return gate.figures(found.as_dict())


def _golden_missed(course: _Course, challenger: Release) -> list[str]:
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


def _forget(course: _Course, step: str) -> None:
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


def _cpu_s() -> float:
    """CPU seconds of this process and its children, those that ended among them."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextlib.contextmanager
def _peak() -> Iterator[list[int]]:
    """The most memory that this process and its children hold while the block runs, looked at twice a second."""
    found, ended = [0], threading.Event()

    def look() -> None:
        this = psutil.Process()
        while True:
            held = 0
            for process in (this, *this.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    held += process.memory_info().rss
            found[0] = max(found[0], held)
            if ended.wait(0.5):
                return

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()
