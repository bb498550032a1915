"""What each choice in training is worth: shares, paraphrases, going on from an adapter; and answers from memory alone.

    python -m benchmarks.ablations --work DIR [--steps 100] [--cases 120] [--only WORD]

On the English sample company (synthetic) and the embedded base; vLLM serves each adapter merged, greedily. Two tables,
each with paired differences to its first adapter and 95% intervals over policies:

- With passages: adapters that differ in one choice, after as many steps, asked about policies that no log mentions, and
  what no article answers. So few steps rank choices, and say nothing of what long training reaches.
- Closed book: bare pairs of so many answers, three epochs each, asked without passages about policies they hold, in
  other words. An answer is right, abstains, or is wrong; no target: a fluent wrong fact is worse than none.

What is trained or answered already is not done again.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from assistant import prompt, releases
from assistant.base_models import prepare, served_folder
from assistant.live_index import open_live
from assistant.prompt import Message
from assistant.redaction import redact_article
from assistant.settings import Settings, read_settings
from benchmarks.adaptation import AT_ONCE, ROOT, Served, sample, spread
from eval.answers import Answer
from eval.cases import Case
from eval.paired import difference, pairs_of
from eval.scorers import facts_present, no_invented_figures
from eval.scorers.routing import abstains
from finetune.adapter import merge
from finetune.recipe import read_recipe
from finetune.run import train_on_logs
from retrieval.build import build
from retrieval.encoder import Encoder
from retrieval.index import Index

BASE = "smollm2-135m"
CHOICES: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "no distractors, no misses": {"distractors_share": 0.0, "none_share": 0.0},
    "distractors and misses .15 each": {"distractors_share": 0.15, "none_share": 0.15},
    "no general instructions": {"general_share": 0.0},
    "with paraphrases": {"paraphrases": True},
    "answers as logged": {"answers": "logged"},
}
SIZES = (40, 160, 640)
"""Answers that closed-book adapters learn."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=100, help="optimiser steps of each choice (default: 100)")
    parser.add_argument("--cases", type=int, default=120, help="questions of each table (default: 120)")
    parser.add_argument("--only", default="", help="only what has this word: passages, closed book, or a choice")
    options = parser.parse_args()
    cases = sample(options.work)
    outside = [case for case in cases if case.scope != "in"]
    unseen = spread([case for case in cases if case.held_out == "policy" and case.scope == "in"], options.cases)
    seen = spread([case for case in cases if case.held_out == "wording" and case.scope == "in"], options.cases)
    bench = Bench(options.work.resolve())
    asked = [*unseen, *outside]
    if options.only != "closed book":
        print(f"\nwith passages, {options.steps} steps: n={len(unseen)} answered, {len(outside)} not", flush=True)
        answers = {
            name: bench.answers(f"{name}, {options.steps} steps", train, asked)
            for name, train in _choices(bench, options)
        }
        _with_passages(unseen, outside, answers)
    if options.only in ("", "closed book"):
        print(f"\nclosed book: n={len(seen)}", flush=True)
        answers = {"base": bench.answers("base, closed book", lambda: "", seen, bare=True)}
        for size in SIZES:
            recipe = {"max_examples": size, "epochs": 3}
            name = f"{size} answers"
            train = bench.training(recipe, bare=True)
            answers[name] = bench.answers(f"{name}, closed book", train, seen, bare=True)
        _closed_book(seen, answers)


def _choices(bench: "Bench", options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], str]]]:
    """Name of each, and what trains it."""
    steps: int = options.steps
    every = {name: bench.training({"max_steps": steps, **fields}) for name, fields in CHOICES.items()}
    every["twice the steps"] = bench.training({"max_steps": 2 * steps})
    every["the defaults, gone on with for as many steps"] = lambda: bench.training(
        {"max_steps": steps, "continue_from": every["the defaults"](), "seed": 8}
    )()
    for name, train in every.items():
        if name == "the defaults" or options.only in ("", "passages") or options.only in name:
            yield name, train


class Bench:
    """A home with the sample company's index and logs, its adapters, and what they answered."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.settings: Settings = read_settings(home=work / "home", base=BASE, merged=True, engine_concurrency=AT_ONCE)
        if releases.live(self.settings.releases).index is None:
            self.settings.home.mkdir(parents=True, exist_ok=True)
            prepare(BASE, self.settings.models)
            encoder = Encoder(self.settings.encoder, self.settings.models)
            built = build([ROOT / "knowledge"], self.settings.indexes, encoder, redact_article, progress=True)
            releases.publish(self.settings.releases, index=built.id)
        self.index: Index = open_live(self.settings)

    def training(self, fields: dict[str, Any], bare: bool = False) -> Callable[[], str]:
        """What trains by these fields of a recipe and gives the adapter's name; `bare` without passages."""

        def train() -> str:
            release = releases.EMPTY if bare else releases.live(self.settings.releases)
            recipe = read_recipe(None, canaries=0, validation_share=0.0, **fields)
            trained = train_on_logs(self.settings, [self.work / "samples" / "logs"], recipe, print, release=release)
            assert trained is not None, "one process only"
            return trained.adapter

        return train

    def answers(self, name: str, train: Callable[[], str], cases: Sequence[Case], bare: bool = False) -> list[str]:
        """Of the adapter that `train` names, the base's for `""`; kept by `name`."""
        kept = self.work / "answers" / f"{name}.json"
        if kept.exists():
            stored: dict[str, str] = json.loads(kept.read_text(encoding="utf-8"))
            if stored.keys() == {case.id for case in cases}:
                return [stored[case.id] for case in cases]
        adapter = train()
        asked = [[Message("user", case.query or "")] for case in cases]
        found = self.index.search_many([prompt.search_query(each) for each in asked], 3, ["en"] * len(asked))
        passages = [() if bare else tuple(one.passage for one in search.found) for search in found]
        told = [prompt.build(each, shown) for each, shown in zip(asked, passages, strict=True)]
        models = self.settings.models
        model = str(merge(self.settings.adapters, adapter, models)) if adapter else served_folder(BASE, models, "nf4")
        with Served(self.settings, model) as ask:
            said: list[str] = ask(told)
        kept.parent.mkdir(exist_ok=True)
        by_id = {case.id: text for case, text in zip(cases, said, strict=True)}
        kept.write_text(json.dumps(by_id, ensure_ascii=False, indent=1), encoding="utf-8")
        return said


def _with_passages(unseen: Sequence[Case], outside: Sequence[Case], answers: dict[str, list[str]]) -> None:
    right = {
        name: [float(bool(facts_present(case, text))) for case, text in zip(unseen, said, strict=False)]
        for name, said in answers.items()
    }
    first = next(iter(right.values()))
    print(f"\n{'':46}every fact                      no made-up figure where no article answers")
    for name, scores in right.items():
        beyond = zip(outside, answers[name][len(unseen) :], strict=True)
        safe = sum(bool(no_invented_figures(case, text)) for case, text in beyond) / len(outside)
        told = "" if scores is first else str(difference(pairs_of(unseen, first, scores)))
        print(f"{name:46}{sum(scores) / len(scores):.3f} {told:48} {safe:.2f}")


def _closed_book(cases: Sequence[Case], answers: dict[str, list[str]]) -> None:
    print(f"\n{'':20}right  wrong  abstained")
    right: dict[str, list[float]] = {}
    for name, said in answers.items():
        counts = Counter(_kind(case, text) for case, text in zip(cases, said, strict=True))
        right[name] = [float(_kind(case, text) == "right") for case, text in zip(cases, said, strict=True)]
        shares = "  ".join(f"{counts[kind] / len(cases):.3f}" for kind in ("right", "wrong", "abstained"))
        told = "" if name == "base" else f"  right - base: {difference(pairs_of(cases, right['base'], right[name]))}"
        print(f"{name:20}{shares}{told}")


def _kind(case: Case, text: str) -> str:
    if facts_present(case, text):
        return "right"
    return "abstained" if abstains(case, Answer(case.id, "lora", text, "adapter")) else "wrong"


if __name__ == "__main__":
    main()
