"""A night killed at any moment, and gone on with: nothing half is visible, and it ends as one that was left alone.

    python -m benchmarks.night_kills --work DIR [--points 100] [--seed 7]
    python -m benchmarks.night_kills --work DIR --real 20 --home HOME

The night has new tickets, a transcript that a customer corrected, changed articles, cases that it and an earlier night
held out, and a golden question; its model has two layers, and benchmarks/stub_engine.py stands in vLLM's place. It is
killed (SIGKILL) right before and right after each rename that it makes, and at random moments; a quarter of the latter
are killed once more on their way. Meanwhile a customer corrects another reply: some nights learn it, the others leave
it to the next. Either way the end must be that of a night which was left alone.

`--real` does the nights of a copy of HOME, which serves and holds a nightly.yaml, with vLLM, killed at random moments.
"""

import argparse
import contextlib
import importlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from tqdm import tqdm

from assistant import releases
from assistant.state import State
from benchmarks.kills_home import ANSWER, LATER, database, make_home, record, settings_of, stand_in
from finetune import nights
from retrieval.files import content_id, folder_hashes, sha256

HEAVY = (
    *("accelerate", "bitsandbytes", "bm25s", "datasets", "faiss", "matplotlib.pyplot", "onnxruntime", "peft"),
    *("scipy.stats", "sklearn.linear_model", "statsmodels.api", "torch.utils.tensorboard", "transformers", "uvicorn"),
    *("assistant.service", "finetune.nightly"),
)
"""What a night imports: here once, for all that are forked."""
RUNS, PATIENCE_S = 6, 3600
"""A night that was killed must come to its end within so many more, each within so long."""
SHOWN, MOST_CHARACTERS = 20, 300
POLL_S = 0.1
Moment = tuple[float, Callable[[], object] | None]
"""After so many CPU seconds of a night something is done; None: it is killed."""
_fork = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Kill:
    """Where a night is killed, and when the feedback comes."""

    kind: str
    feedback_cpu_s: float
    """Of the night, or of the one that goes on where it was. Other load does not change what these seconds hit."""
    feedback_later: bool
    rename: tuple[int, str] | None = None
    """Before or after the rename of that number."""
    at_cpu_s: tuple[float, ...] = ()
    """Of the night, and of the one that goes on."""


@dataclass(frozen=True)
class Outcome:
    """What nights came to. A night is named by all that went in, and so is what it made: names are compared."""

    live: str
    history: tuple[str, ...]
    nights: tuple[tuple[Any, ...], ...]
    """Id, word, challenger, adapter, evaluation, rules passed, articles changed, what it learned."""
    reports: tuple[str, ...]
    told: tuple[str, ...]
    """How many nights ended how, as Prometheus was told."""


@dataclass
class Found:
    """What a killed night left behind."""

    seconds: float = 0.0
    """Of the nights that went on, to the end."""
    half: list[str] = field(default_factory=list)
    lost: bool = False
    """No night learned the feedback."""
    differs: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """What a night that was left alone does not leave behind."""


@dataclass(frozen=True)
class Undisturbed:
    """A night that was left alone."""

    outcomes: tuple[Outcome, Outcome]
    """With the feedback before it, and after it."""
    allowed: frozenset[str]
    """Releases that may be live: the one before, and those that were promoted."""
    paths: frozenset[str]
    renames: tuple[str, ...]
    """What they named, in order."""
    seconds: float
    cpu_s: float
    """Of the night, its engine among it."""


@dataclass(frozen=True)
class Place:
    """A home that is made anew for each night, always under one path: a night's name depends on its plan's paths."""

    home: Path
    prepared: Path
    night: Callable[..., None]
    """Does a night, in a process of its own."""

    def renew(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.copytree(self.prepared, self.home, symlinks=True)

    def run(self, moments: Iterable[Moment] = (), **options: Any) -> int | None:
        """Do a night, and at each moment what belongs to it; returns the exit code."""
        process = _fork.Process(target=self.night, args=(self.home,), kwargs=options)
        process.start()
        for at_cpu_s, act in sorted(moments, key=lambda moment: moment[0]):
            while process.is_alive() and _cpu_s(process.pid) < at_cpu_s:
                time.sleep(POLL_S)
            (act or process.kill)()
        process.join(PATIENCE_S)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode

    def settle(self) -> list[str]:
        """Do nights until one changes nothing; what went wrong."""
        wrong = []
        before = None
        for _ in range(RUNS):
            if code := self.run():
                wrong.append(f"a night ended with code {code}")
            if before == (now := outcome(self.home)):
                return wrong
            before = now
        return [*wrong, f"something is new after {RUNS} nights"]

    def correct(self) -> None:
        """The feedback that comes while a night runs."""
        state = State(database(self.home))
        state.feedback(LATER, "down", None, f"{ANSWER} You ask for it in the app, and not by phone.")
        state.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where homes go; what is there is used again")
    parser.add_argument("--points", type=int, default=100, help="random moments (default: 100)")
    parser.add_argument("--renames", default="", metavar="TEXT", help="those to a name that holds it (default: all)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--models", type=Path, help="prepared models (default: made under --work)")
    parser.add_argument("--real", type=int, metavar="N", help="kill N nights of HOME, which vLLM answers")
    parser.add_argument("--home", type=Path, help="whose live release serves, with a nightly.yaml; it is copied")
    options = parser.parse_args()
    if (options.real is None) != (options.home is None):
        parser.error("--real N and --home HOME belong together")
    work, chance = options.work.resolve(), random.Random(options.seed)
    work.mkdir(parents=True, exist_ok=True)
    place = _real(work, options.home.resolve()) if options.home else _tiny(work, options.models)
    alone = undisturbed(place)
    if options.real is None and len(alone.allowed) < 3:
        sys.exit(f"nights that are left alone promote what they should not, or nothing: {sorted(alone.allowed)}")
    print(f"left alone: {alone.seconds:.1f} s, {alone.cpu_s:.1f} CPU s, {len(alone.renames)} renames", flush=True)
    kills = at_random(options.points if options.real is None else options.real, alone.cpu_s, chance)
    if options.real is None:
        kills += at_renames(alone.renames, options.renames, alone.cpu_s, chance)
    chance.shuffle(kills)  # a run that is broken off has then seen something of every kind
    found: list[tuple[Kill, Found]] = []
    with contextlib.suppress(KeyboardInterrupt), (work / "kills.jsonl").open("w", encoding="utf-8") as lines:
        for kill in tqdm(kills, "killing nights", unit="kill"):
            found.append((kill, killed(place, kill, alone)))
            lines.write(json.dumps([asdict(part) for part in found[-1]]) + "\n")
            lines.flush()
    sys.exit(_show(found, alone))


def at_renames(renames: Sequence[str], holding: str, cpu_s: float, chance: random.Random) -> list[Kill]:
    """Right before and right after each rename to a name that has `holding` in it."""
    return [
        Kill(f"{side} a rename", *_feedback(cpu_s, chance), rename=(number, side))
        for number, name in enumerate(renames, 1)
        if holding in name
        for side in ("before", "after")
    ]


def at_random(points: int, cpu_s: float, chance: random.Random) -> list[Kill]:
    """At moments drawn evenly from a night; every fourth is killed once more on its way."""
    kills = []
    for number in range(points):
        twice = number % 4 == 3
        at_cpu_s = tuple(chance.uniform(0, cpu_s) for _ in range(1 + twice))
        kills.append(Kill("at random, twice" if twice else "at random", *_feedback(cpu_s, chance), at_cpu_s=at_cpu_s))
    return kills


def _feedback(cpu_s: float, chance: random.Random) -> tuple[float, bool]:
    return chance.uniform(0, cpu_s), chance.random() < 0.5


def undisturbed(place: Place) -> Undisturbed:
    """The nights that killed ones are compared to.

    Raises:
        SystemExit: They are not what they should be.
    """
    place.renew()
    before, served = releases.live(place.home / "releases").id, len(releases.history(place.home / "releases"))
    place.correct()
    wrong = place.settle()
    learned, paths = outcome(place.home), _paths(place.home)
    place.renew()
    told = place.prepared.with_name("renames.txt")
    told.unlink(missing_ok=True)
    began, before_s = time.monotonic(), _ended_cpu_s()
    code = place.run(told=told)
    seconds, cpu_s = time.monotonic() - began, _ended_cpu_s() - before_s
    place.correct()
    wrong += place.settle()
    left = outcome(place.home)
    ended = {night[1] for each in (learned, left) for night in each.nights}
    if wrong or code or "failed" in ended or len(left.nights) - len(learned.nights) != 1:
        sys.exit(f"nights that are left alone already go wrong: {wrong}, code {code}\n{learned}\n{left}")
    renames = tuple(told.read_text(encoding="utf-8").splitlines()) if told.exists() else ()
    allowed = frozenset((before, *learned.history[served:], *left.history[served:]))
    return Undisturbed((learned, left), allowed, paths | _paths(place.home), renames, seconds, cpu_s)


def _cpu_s(pid: int | None) -> float:
    """Of a process, and of its children."""
    spent = 0.0
    with contextlib.suppress(psutil.Error):
        this = psutil.Process(pid)
        for process in (this, *this.children(recursive=True)):
            times = process.cpu_times()
            spent += times.user + times.system + times.children_user + times.children_system
    return spent


def _ended_cpu_s() -> float:
    """Of all processes that were started here and ended."""
    times = os.times()
    return times.children_user + times.children_system


def killed(place: Place, kill: Kill, alone: Undisturbed) -> Found:
    """Kill a night, look what can be seen of it, and go on to the end."""
    found = Found()
    place.renew()
    first: list[Moment] = [(at_cpu_s, None) for at_cpu_s in kill.at_cpu_s[:1]]
    second: list[Moment] = [(at_cpu_s, None) for at_cpu_s in kill.at_cpu_s[1:]]
    (second if kill.feedback_later else first).append((kill.feedback_cpu_s, place.correct))
    place.run(first, rename=kill.rename)
    found.half += half(place.home, alone.allowed)
    began = time.monotonic()
    if second:
        place.run(second)
        found.half += half(place.home, alone.allowed)
    found.differs += place.settle()
    found.seconds = time.monotonic() - began
    found.half += half(place.home, alone.allowed)
    end = outcome(place.home)
    found.lost = _corrected(place.home) not in {part for night in end.nights for part in night[-1]}
    if end not in alone.outcomes:
        found.differs.append(_difference(end, alone.outcomes))
    found.left += left(_paths(place.home) - alone.paths)
    return found


def outcome(home: Path) -> Outcome:
    ended = []
    for night in nights.read_all(home / "nights"):
        learned = json.loads((home / "nights" / night.id / "collected.json").read_text(encoding="utf-8"))
        rules = tuple((ruling.rule, ruling.passed) for ruling in night.rulings)
        changed = json.dumps(night.articles)
        parts = (night.word, night.challenger, night.adapter, night.evaluation, rules, changed, tuple(learned))
        ended.append((night.id, *parts))
    textfile = home / "nights.prom"
    lines = textfile.read_text(encoding="utf-8").splitlines() if textfile.exists() else []
    return Outcome(
        live=releases.live(home / "releases").id,
        history=tuple(entry.release for entry in releases.history(home / "releases")),
        nights=tuple(sorted(ended)),
        reports=tuple(
            sorted(
                str(path.relative_to(home)) for id, *_ in ended for path in home.glob(f"evaluations/night-{id}*/[!.]*")
            )
        ),
        told=tuple(line for line in lines if line.startswith("assistant_nightly_nights_total")),
    )


def _difference(end: Outcome, outcomes: Sequence[Outcome]) -> str:
    """What `end` has otherwise than the outcome that it comes nearest to."""

    def differing(other: Outcome) -> list[str]:
        return [name for name in vars(end) if getattr(end, name) != getattr(other, name)]

    def told(name: str) -> str:
        mine, its = getattr(end, name), getattr(nearest, name)
        if isinstance(mine, tuple):
            mine, its = [each for each in mine if each not in its], [each for each in its if each not in mine]
        return f"{name} {mine}, not {its}"[:MOST_CHARACTERS]

    nearest = min(outcomes, key=lambda other: len(differing(other)))
    return "; ".join(map(told, differing(nearest)))


def half(home: Path, allowed: frozenset[str]) -> list[str]:
    """What is visible under its own name and not whole."""
    found: list[str] = []
    for pattern, check in _WHOLE.items():
        for path in sorted(home.glob(pattern)):
            try:
                whole = check(path)
            except Exception as error:  # whatever a reader says of it
                whole, path = False, Path(f"{path}: {error}")
            if not whole:
                found.append(str(path.relative_to(home) if path.is_relative_to(home) else path))
    if (live := releases.live(home / "releases").id) not in allowed:
        found.append(f"releases/live is {live}")
    return found


def _adapter_is_whole(folder: Path) -> bool:
    """Its name is made of what it holds."""
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    weights = {name: digest for name, digest in folder_hashes(folder).items() if name.endswith(".safetensors")}
    named = content_id(json.dumps(weights), record["base_fingerprint"], record["prompt"])
    return folder.name.endswith(named) and (folder / "README.md").exists()


def _index_is_whole(folder: Path) -> bool:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return all(sha256(folder / name) == digest for name, digest in manifest["files"].items())


def _checkpoint_is_whole(folder: Path) -> bool:
    from safetensors import safe_open

    with safe_open(folder / "tensors.safetensors", "pt") as tensors:
        return bool(list(tensors.keys())) and _lines(folder / "progress.json")


def _report_is_whole(path: Path) -> bool:
    from eval import report

    return bool(report.read(path.parent))


def _lines(path: Path) -> bool:
    """Each line is JSON, or the whole file is."""
    text = path.read_text(encoding="utf-8")
    for part in text.splitlines() if path.suffix == ".jsonl" else [text]:
        json.loads(part)
    return True


_WHOLE: Mapping[str, Callable[[Path], bool]] = {
    "releases/[!.]*.json": lambda path: releases.read(path.parent, path.stem).id == path.stem,
    "releases/history": lambda path: bool(releases.history(path.parent)),
    "nights/[!.]*/night.json": lambda path: nights.read(path).id == path.parent.name,
    "nights/[!.]*/[!.]*.json*": _lines,
    "adapters/[!.]*": _adapter_is_whole,
    "indexes/[!.]*/": lambda path: not path.is_dir() or _index_is_whole(path),
    "runs/[!.]*/data/[!.]*.json*": _lines,
    "runs/[!.]*/result.json": _lines,
    "runs/[!.]*/step-*": _checkpoint_is_whole,
    "evaluations/[!.]*/report.json": _report_is_whole,
}


def _corrected(home: Path) -> str:
    """What names the corrected reply among the data of a night."""
    state = State(database(home))
    (line,) = (line for line in state.export() if line["id"] == LATER)
    state.close()
    return content_id(json.dumps(line, ensure_ascii=False, sort_keys=True))


def _paths(home: Path) -> frozenset[str]:
    return frozenset(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


def left(paths: Iterable[str]) -> Iterator[str]:
    """Kinds of files that a night left behind: in which folder, and whether their name says that they are temporary."""
    for path in paths:
        parts = Path(path).parts
        if "tensorboard" not in parts:  # a curve that was gone on with has a file for each start
            temporary = any(part.startswith(".") for part in parts)
            yield f"{parts[0]}/…, temporary" if temporary else f"{path}, NOT temporary"


def _show(found: Sequence[tuple[Kill, Found]], alone: Undisturbed) -> int:
    """Print what was found; the exit code."""
    by_kind: defaultdict[str, list[Found]] = defaultdict(list)
    for kill, each in found:
        by_kind[kill.kind].append(each)
    heads = ("killed", "attempts", "half releases", "lost feedback", "different end", "median s")
    print("{:20}{:>10}{:>15}{:>15}{:>15}{:>10}".format(*heads))
    for kind, some in by_kind.items():
        counts = (sum(bool(each.half) for each in some), sum(each.lost for each in some))
        different, seconds = sum(bool(each.differs) for each in some), median(each.seconds for each in some)
        print(f"{kind:20}{len(some):>10}{counts[0]:>15}{counts[1]:>15}{different:>15}{seconds:>10.1f}")
    bad = [(kill, each) for kill, each in found if each.half or each.lost or each.differs]
    for kill, each in bad[:SHOWN]:
        where = f"{kill.rename[1]} {alone.renames[kill.rename[0] - 1]}" if kill.rename else f"at {kill.at_cpu_s} CPU s"
        lost = ["the feedback is lost"] if each.lost else []
        print(f"killed {where}: {'; '.join([*each.half, *lost, *each.differs])}")
    for what, count in Counter(kind for _, each in found for kind in each.left).most_common(SHOWN):
        print(f"left behind: {count:5} × {what}")
    return int(bool(bad))


def _real(work: Path, home: Path) -> Place:
    """A home with real models, whose nights the command line does; HOME is only read."""
    prepared = work / "prepared"
    shutil.rmtree(prepared, ignore_errors=True)
    shutil.copytree(home, prepared, ignore=shutil.ignore_patterns("models", "samples", "-*"))
    (prepared / "models").symlink_to((home / "models").resolve())
    record(prepared)
    return Place(work / "home", prepared, _command)


def _command(home: Path, **_: Any) -> None:
    log = os.open(home / "night.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.execv(sys.executable, [sys.executable, "-m", "assistant.cli", "nightly", "--home", str(home)])


def _tiny(work: Path, models: Path | None) -> Place:
    """A home with a model of two layers, after one night; nothing is computed in this process, which forks."""
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    tqdm.monitor_interval = 0  # its thread would be missing in the forks, and its lock held
    for name in HEAVY:
        importlib.import_module(name)
    home, prepared, base = work / "home", work / "prepared", work / "base"
    place = Place(home, prepared, partial(_night, base=base))
    if not prepared.exists():
        shutil.rmtree(home, ignore_errors=True)
        process = _fork.Process(target=make_home, args=(home, base, models or work / "models"))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(process.exitcode)
        home.rename(prepared)
    return place


def _night(home: Path, base: Path, rename: tuple[int, str] | None = None, told: Path | None = None) -> None:
    """A night of the home, killed before or after the rename of a number; `told` is given what is renamed to."""
    from finetune.nightly import nightly
    from finetune.plan import read_plan

    _quiet(home)
    settings = settings_of(home, base)
    stand_in(home)
    watch_renames(rename, told)
    nightly(settings, read_plan(home / "nightly.yaml"), print)


def watch_renames(kill: tuple[int, str] | None, told: Path | None) -> None:
    """Have this process killed before or after the rename of a number; `told` is given what is renamed to."""
    numbers = itertools.count(1)

    def watched(really: Callable[..., None]) -> Callable[..., None]:
        def rename(source: Any, target: Any, **options: Any) -> None:
            number = next(numbers)
            if kill == (number, "before"):
                os.kill(os.getpid(), signal.SIGKILL)
            really(source, target, **options)
            if kill == (number, "after"):
                os.kill(os.getpid(), signal.SIGKILL)
            if told:
                with told.open("a", encoding="utf-8") as file:
                    file.write(f"{'/'.join(Path(target).parts[-3:])}\n")

        return rename

    os.rename, os.replace = watched(os.rename), watched(os.replace)


def _quiet(home: Path) -> None:
    log = os.open(home / "night.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)


if __name__ == "__main__":
    main()
