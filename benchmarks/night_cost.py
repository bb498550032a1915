"""What each step of a night costs, and how that grows with the rows of new logs.

    python -m benchmarks.night_cost --work DIR [--rows 1000,5000,20000]

The nights are real ones on the sample company, each in a process of its own: all articles indexed anew, the logs
cleaned and searched for with the embedded encoder, smollm2-135m trained, champion and challenger asked. Two things are
fixed, because rows do not set their cost. Training takes `TRAINED_STEPS` steps; a recipe sets max_steps or minutes.
`CASES` cases, and at most `HELD_OUT` that training held out, are answered by benchmarks/stub_engine.py in vLLM's place:
`evaluate` is all but what the engine takes, which is its speed times the answers. What was forgotten (`measure`) is
asked of a fixed set; that step is left out.

The logs are synthetic (samples/make_logs.py). Their questions have some thousand wordings, so with more rows ever more
would be near duplicates; each is given a detail of its own ("I paid 41.70 for a kettle in Lyon"), as customers give.
The answers stay few, as macros of a support desk are. How many answers were kept is printed.

A night that was measured is kept in DIR and not repeated; remove its file to measure it anew. `DIR/models` may be a
link to a folder of prepared models. The last column is computed, not measured: by a + b·rows, or, of three nights and
more, by c·rows^p where that fits better and p is over 1. Other work disturbs CPU seconds less than wall seconds.
"""

import argparse
import json
import os
import random
import runpy
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from assistant import releases
from assistant.settings import Settings, read_settings
from benchmarks.stub_engine import Pace, in_place_of_vllm
from finetune.course import Course
from finetune.nights import Step
from finetune.plan import read_plan
from retrieval.errors import SupportError
from retrieval.files import write_text

ROOT = Path(__file__).parent.parent
TRAINED_STEPS, CASES, HELD_OUT = 4, 24, 8
MILLION = 1_000_000
BY = {
    "index": "set by articles",
    "optimise": "set by max_steps or minutes",
    "evaluate": "set by cases",
    "measure": "left out",
    "gate": "set by rules",
}
"""Steps whose cost rows do not set, and what does."""
PLACES = ("Lyon", "Porto", "Leeds", "Osaka", "Turin", "Ghent", "Malmö", "Cork", "Graz", "Basel", "Lima", "Quito")
THINGS = (
    "a kettle",
    "two lamps",
    "a carpet",
    "headphones",
    "a train ticket",
    "a winter coat",
    "garden chairs",
    "a desk",
)
ZH_PLACES = ("苏州", "厦门", "青岛", "大连", "昆明", "珠海", "无锡", "洛阳", "桂林", "温州", "合肥", "南昌")
ZH_THINGS = ("水壶", "两盏台灯", "地毯", "耳机", "火车票", "冬天的外套", "花园椅子", "书桌")


@dataclass(frozen=True)
class Cost:
    """What a night of so many rows took."""

    rows: int
    answers: int
    """To learn from, of these rows."""
    duplicates: int
    """Answers that taught the same as another."""
    steps: dict[str, Step]


@dataclass(frozen=True)
class Fit:
    """How a cost grows."""

    words: str
    at: Callable[[int], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where homes, logs and measurements go")
    parser.add_argument(
        "--rows", default="1000,5000,20000", help="rows of new logs, a night each (default: %(default)s)"
    )
    options = parser.parse_args()
    work = options.work.resolve()
    (work / "models").mkdir(parents=True, exist_ok=True)
    try:
        costs = [cost(work, int(rows)) for rows in options.rows.split(",")]
    except SupportError as error:
        sys.exit(f"benchmarks.night_cost: {error}")
    print(table(costs))


def cost(work: Path, rows: int) -> Cost:
    """What a night of `rows` new rows takes, measured once."""
    path = work / f"{rows}.json"
    if not path.exists():
        with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as alone:
            if not (work / "champion" / "adapters").is_dir():
                alone.submit(_champion, work).result()
            write_text(path, json.dumps(asdict(alone.submit(_night, work, rows).result()), indent=1) + "\n")
    kept = json.loads(path.read_text(encoding="utf-8"))
    return Cost(**{**kept, "steps": {name: Step(**step) for name, step in kept["steps"].items()}})


def _settings(home: Path) -> Settings:
    return read_settings(home=home, base="smollm2-135m", base_languages=("en", "zh"))


def _champion(work: Path) -> None:
    """The home that every night begins with: an index, and an adapter of one step."""
    from assistant.redaction import redact_article
    from finetune.recipe import read_recipe
    from finetune.run import train_on_logs
    from retrieval.build import build
    from retrieval.encoder import Encoder

    settings = _settings(work / "champion")
    shutil.rmtree(settings.home, ignore_errors=True)
    settings.home.mkdir()
    settings.models.symlink_to(work / "models")
    built = build([ROOT / "knowledge"], settings.indexes, Encoder(settings.encoder, settings.models), redact_article)
    releases.publish(settings.releases, index=built.id)
    _logs(settings.home, 100, seed=1)
    recipe = read_recipe(None, max_steps=1, validation_most=0)
    train_on_logs(settings, [settings.home / "logs"], recipe, print)
    shutil.rmtree(settings.home / "logs")


def _night(work: Path, rows: int) -> Cost:
    from finetune import nightly

    home = work / str(rows)
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(work / "champion", home, symlinks=True)
    for cache in home.glob("indexes/*.sqlite"):
        cache.unlink()
    shutil.copytree(ROOT / "knowledge", home / "knowledge")
    (home / "knowledge" / "en" / "new.md").write_text("# Parcels\n\nA parcel of ours is blue.\n", encoding="utf-8")
    _logs(home, rows, seed=7)
    recipe = f"max_steps: {TRAINED_STEPS}\nvalidations: 1\nvalidation_most: {HELD_OUT}\nreplay_share: 0.5\n"
    (home / "recipe.yaml").write_text(recipe, encoding="utf-8")
    os.environ |= in_place_of_vllm(home / "engine", Pace(chunks=40))
    plan = home / "nightly.yaml"
    cases = ROOT / "eval" / "company" / "en.jsonl"
    inputs = f"knowledge: [knowledge]\nlogs: [logs]\ncases: [{cases}]\nrecipe: recipe.yaml\n"
    plan.write_text(f"{inputs}limit: {CASES}\nmeasured: false\n", encoding="utf-8")
    settings = _settings(home)
    parts = Course(settings, read_plan(plan), releases.live(settings.releases), lambda _: None)
    _measure(parts)
    night = nightly.nightly(settings, read_plan(plan), print)
    if night is None or night.word == "failed":
        raise SupportError(f"the night of {rows} rows failed: {night.reasons if night else 'nothing new'}")
    answers = sum(night.counts.get(f"turns: {kind}", 0) for kind in ("retrieved", "inserted", "distractors", "none"))
    return Cost(rows, answers, night.counts["turns: duplicate"], _in_order(night.steps, _summed(parts.steps)))


def _measure(parts: Course) -> None:
    """From now on, note in `parts` what the parts of the step `train` take, as the night does for its steps."""
    from finetune import dataset
    from finetune.cleaning import duplicates, split, topics

    measured: dict[str, list[tuple[Any, str]]] = {
        "prepare": [(dataset, "prepare")],
        "  read, redact, rules": [(dataset, "_worth_learning")],
        "  bursts": [(dataset, "_without_bursts")],
        "  near duplicates": [(dataset, "_distinct"), (duplicates, "groups")],
        "  topics": [(topics, "topics"), (topics, "capped")],
        "  split, leaks, replay": [(split, "split"), (split, "check_leaks"), (dataset, "_replayed")],
        "  examples, searched": [(dataset, "_examples")],
        "  token ids": [(dataset, "tokenise")],
    }

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            with parts.step(name):
                return function(*arguments, **options)

        return call

    for name, functions in measured.items():
        for module, function in functions:
            setattr(module, function, timed(name, getattr(module, function)))


def _summed(steps: Sequence[Step]) -> list[Step]:
    """One for each name, in order of first appearance: what was called several times added up."""
    found: dict[str, Step] = {}
    for step in steps:
        before = found.get(step.name, Step(step.name, 0, 0, 0))
        memory = max(before.memory_bytes, step.memory_bytes)
        found[step.name] = Step(step.name, before.seconds + step.seconds, before.cpu_s + step.cpu_s, memory)
    return list(found.values())


def _in_order(steps: Sequence[Step], parts: Sequence[Step]) -> dict[str, Step]:
    """The night's steps by name, `train` as `prepare` with its parts, and `optimise`, which is the rest of it."""
    found: dict[str, Step] = {}
    prepare = parts[-1]  # ends after its parts
    for step in steps:
        if step.name == "train":
            found |= {part.name: part for part in (prepare, *parts[:-1])}
            seconds, cpu_s = step.seconds - prepare.seconds, step.cpu_s - prepare.cpu_s
            found["optimise"] = Step("optimise", seconds, cpu_s, step.memory_bytes)
        else:
            found[step.name] = step
    return found


def _logs(home: Path, rows: int, seed: int) -> None:
    """A day's logs: each first question with a detail that no other has."""
    script = runpy.run_path(str(ROOT / "samples" / "make_logs.py"))
    script["write"](home, conversations=rows, days=1, seed=seed)
    (home / "cases.jsonl").unlink()
    chance = random.Random(seed)
    for path in sorted((home / "logs").iterdir()):
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for line in lines:
            line["messages"][0]["content"] += _detail(chance, line["lang"])
        write_text(path, (json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _detail(chance: random.Random, lang: str) -> str:
    amount = f"{chance.randrange(2_000, 90_000) / 100:.2f}"
    if lang == "en":
        return f" I paid {amount} for {chance.choice(THINGS)} in {chance.choice(PLACES)}."
    return f" 我在{chance.choice(ZH_PLACES)}买了{chance.choice(ZH_THINGS)}，付了{amount}。"


def fit(rows: Sequence[int], costs: Sequence[float]) -> Fit:
    """The line with the least relative errors; a power law where that is nearer and grows faster."""
    at, found = np.array(rows, dtype=float), np.maximum(costs, 0.01)
    if len(rows) < 2:
        return Fit("of one night there is none", lambda n: float("nan"))
    b, a = np.polyfit(at, found, 1, w=1 / found)
    p, c = np.polyfit(np.log(at), np.log(found), 1)
    line, power = (((made / found - 1) ** 2).sum() for made in (a + b * at, np.exp(c) * at**p))
    if len(rows) > 2 and p > 1 and power < line:  # two nights lie on any curve
        return Fit(f"{np.exp(c):.2g} · rows^{p:.2f}", lambda n: float(np.exp(c) * n**p))
    a, b = round(float(a), 6), max(float(b), 0.0)
    return Fit(f"{a:.2g} + {1000 * b:.2g} a thousand rows", lambda n: float(a + b * n))


def table(costs: Sequence[Cost]) -> str:
    """Wall seconds, CPU seconds and GiB of every step, one table each."""
    rows = [cost.rows for cost in costs]
    lines = [f"{c.rows:,} rows: {c.answers:,} answers kept, {c.duplicates:,} near duplicates" for c in costs]
    measures: dict[str, Callable[[Step], float]] = {
        "wall seconds": lambda step: step.seconds,
        "CPU seconds": lambda step: step.cpu_s,
        "GiB held at most, until the step's end": lambda step: step.memory_bytes / 2**30,
    }
    for title, of in measures.items():
        head = "".join(f"{n:>12,}" for n in rows)
        lines += ["", title, f"{'step, by rows of new logs':28}{head}  {'fit':34}{'1,000,000, computed':>20}"]
        for name in costs[0].steps:
            found = [of(cost.steps[name]) for cost in costs]
            figures = "".join(f"{value:12,.2f}" for value in found)
            if name in BY:
                words, million = BY[name], float(np.mean(found))
            else:
                fitted = fit(rows, found)
                words, million = fitted.words, fitted.at(MILLION)
            lines.append(f"{name:28}{figures}  {words:34}{million:20,.1f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
