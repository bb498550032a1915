"""What training adds where passages are given: our way, bare pairs, and the base with its best prompt.

    python -m benchmarks.adaptation --work DIR [--base BASE] [--minutes M] [--cases N]

All on the sample company (synthetic), in English, which every embedded base writes: half of the policies never appear
in the logs, and the questions asked are about those. Each answer is made from the same passages, greedily. Bare pairs
are learned for as many steps as our way took in its minutes. The prompt of the base is the best of several on other
questions: zero to three worked examples before the question, and with a shorter instruction. Models are served by
vLLM, adapters merged into the base that they were trained on.

Printed: the share of answers with every fact and none forbidden, for each arm and kind of question, and of claims that
the passages hold; the paired differences with 95% bootstrap intervals over policies.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import runpy
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from assistant import prompt, releases
from assistant.base_models import served_folder
from assistant.engine import Engine, Sampling, Usage
from assistant.engine_process import EngineProcess
from assistant.live_index import open_live
from assistant.prompt import Message
from assistant.settings import Settings, read_settings
from eval.answers import Answer, Shown
from eval.cases import Case, read_cases
from eval.paired import difference, pairs_of
from eval.scorers import SCORERS, facts_present, no_invented_figures
from finetune.adapter import record_of
from retrieval.passages import Passage

ROOT = Path(__file__).parent.parent
AT_ONCE = 8
DEVELOPMENT = 40
"""Questions that the base's prompt is chosen on."""
SHORT = "Answer the question in one or two sentences, using only the passages. Copy figures exactly."
PROMPTS = {"as served": (0, False), "1 example": (1, False), "3 examples": (3, False), "short": (0, True)}
"""Worked examples, and whether the short instruction stands before the question."""
SAMPLING = Sampling(max_tokens=96)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--base", default="smollm2-135m", help="base model (default: smollm2-135m)")
    parser.add_argument("--minutes", type=float, default=15, help="training time of our way (default: 15)")
    parser.add_argument("--cases", type=int, default=240, help="questions asked (default: 240)")
    options = parser.parse_args()
    os.environ |= {"ASSISTANT_BASE": options.base, "ASSISTANT_BASE_LANGUAGES": '["en"]'}  # commands here read them too
    cases = sample(options.work)
    shown = max(count for count, _ in PROMPTS.values())
    chance = random.Random(7)
    unseen = spread([case for case in cases if case.held_out == "policy" and case.scope == "in"], options.cases)
    outside = [case for case in cases if case.scope != "in"]
    seen = chance.sample([case for case in cases if case.held_out == "wording"], DEVELOPMENT + shown)
    examples, development = seen[:shown], seen[shown:]

    settings = _settings(options.work, "ours")
    _trained(settings, options.work / "samples", f"--minutes={options.minutes}", knowledge=ROOT / "knowledge")
    bare = _settings(options.work, "bare pairs")
    _trained(bare, options.work / "samples", f"--max-steps={_steps(settings)}")

    index = open_live(settings)
    questions = [*unseen, *outside, *seen]
    queries = [prompt.search_query([Message("user", case.query or "")]) for case in questions]
    found = index.search_many(queries, 3, ["en"] * len(queries))
    passages = {case.id: tuple(f.passage for f in s.found) for case, s in zip(questions, found, strict=True)}
    print(f"{len(unseen)} questions on policies that no log mentions")

    def asked(case: Case, way: tuple[int, bool]) -> list[Message]:
        count, short = way
        turns = []
        for example in examples[:count]:
            turns += [_question(example, passages), Message("assistant", example.reference or "")]
        messages = prompt.build([Message("user", case.query or "")], passages[case.id])
        system = replace(messages[0], content=SHORT) if short else messages[0]
        return [system, *turns, *messages[1:]]

    base = served_folder(settings.base, settings.models, "nf4")
    answers: dict[str, list[str]] = {}
    with Served(settings, base) as ask:
        tried = {}
        for name, way in PROMPTS.items():
            said = ask([asked(case, way) for case in development])
            tried[name] = sum(map(_right, development, said)) / len(development)
        best = max(tried, key=lambda name: tried[name])
        print(f"the base's prompts on {len(development)} other questions: {tried}; best: {best}")
        answers["base, best prompt"] = ask([asked(case, PROMPTS[best]) for case in [*unseen, *outside]])
    for name, arm in {"ours": settings, "bare pairs": bare}.items():
        print(f"{name}: {_steps(arm)} steps")
        with Served(arm, str(arm.models / f"{_adapter(arm)}-merged")) as ask:
            answers[name] = ask([asked(case, PROMPTS["as served"]) for case in [*unseen, *outside]])
    kept = [
        {"id": case.id, "asked": case.query, "facts": case.facts}
        | {"found": [passage.path for passage in passages[case.id]]}
        | {name: said[i] for name, said in answers.items()}
        for i, case in enumerate([*unseen, *outside])
    ]
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept)
    (options.work / "answers.jsonl").write_text(lines, encoding="utf-8")
    _report(unseen, passages, outside, answers)


def sample(work: Path) -> list[Case]:
    """The English cases; logs are written beside."""
    script = runpy.run_path(str(ROOT / "samples" / "make_logs.py"))
    if not (work / "samples" / "cases.jsonl").exists():
        script["write"](work / "samples", conversations=3000, held_out_policies=2, cases_per_unseen_intent=9)
    return read_cases(work / "samples" / "cases.jsonl", "en")


def spread(cases: Sequence[Case], count: int) -> list[Case]:
    """`count` cases, of every intent as many as of any other."""
    shuffled = random.Random(7).sample(list(cases), len(cases))
    taken: dict[str, int] = {}
    turn = []
    for case in shuffled:
        intent = case.id.rsplit("/", 1)[0]
        taken[intent] = taken.get(intent, 0) + 1
        turn.append((taken[intent], case))
    return [case for _, case in sorted(turn, key=lambda pair: pair[0])][:count]


def _settings(work: Path, name: str) -> Settings:
    home = work.resolve() / name.replace(" ", "-")
    return read_settings(home=home, merged=True, engine_concurrency=AT_ONCE)


def _trained(settings: Settings, samples: Path, most: str, knowledge: Path | None = None) -> None:
    """Train and merge the adapter of a home, once: in the prompt with passages of `knowledge`, or on bare pairs."""
    command = [sys.executable, "-m", "assistant.cli"]
    home = [f"--home={settings.home}"]
    if releases.live(settings.releases).adapter is None:
        if knowledge:
            subprocess.run([*command, "index", *home, "--knowledge", str(knowledge)], check=True)
        subprocess.run([*command, "train", *home, f"--logs={samples / 'logs'}", most], check=True)
    subprocess.run([*command, "merge", *home], check=True)


def _adapter(settings: Settings) -> str:
    adapter = releases.live(settings.releases).adapter
    if adapter is None:
        raise SystemExit(
            f"the adapter in {settings.home} did not go live, since it learned nothing; give more --minutes"
        )
    return adapter


def _steps(settings: Settings) -> int:
    """That the live adapter of a home was trained for."""
    steps: int = record_of(settings.adapters, _adapter(settings))["metrics"]["steps"]
    return steps


class Served:
    """vLLM serving one model; called with conversations, it gives their answers."""

    def __init__(self, settings: Settings, model: str) -> None:
        self.process = EngineProcess(settings, model, "model", None, settings.home / "logs" / "engine.log")

    def __enter__(self) -> Any:
        self.process.start()
        return lambda asked: asyncio.run(self._ask(asked))

    def __exit__(self, *_: object) -> None:
        self.process.stop()

    async def _ask(self, asked: Sequence[Sequence[Message]]) -> list[str]:
        engine, room = Engine(self.process.url), asyncio.Semaphore(AT_ONCE)
        bar: tqdm[Any] = tqdm(total=len(asked), desc="asking", unit="answer")

        async def one(messages: Sequence[Message]) -> str:
            async with room:
                pieces = engine.answer("model", list(messages), SAMPLING, Usage())
                text = "".join([piece.text async for piece in pieces])
                bar.update()
                return text

        try:
            return await asyncio.gather(*map(one, asked))
        finally:
            bar.close()
            await engine.close()


def _question(case: Case, passages: dict[str, Any]) -> Message:
    return prompt.build([Message("user", case.query or "")], passages[case.id][:1])[-1]


def _right(case: Case, answer: str) -> bool:
    return bool(facts_present(case, answer))


def _report(
    unseen: Sequence[Case],
    passages: dict[str, tuple[Passage, ...]],
    outside: Sequence[Case],
    answers: dict[str, list[str]],
) -> None:
    right: dict[str, list[float]] = {}
    held: dict[str, list[float | None]] = {}
    for name, said in answers.items():
        right[name] = [float(_right(case, text)) for case, text in zip(unseen, said, strict=False)]
        held[name] = [_held(case, text, passages[case.id]) for case, text in zip(unseen, said, strict=False)]
        claiming = [share for share in held[name] if share is not None]
        beyond = zip(outside, said[len(unseen) :], strict=True)
        safe = sum(bool(no_invented_figures(case, text)) for case, text in beyond)
        print(
            f"{name:20} facts {sum(right[name]) / len(unseen):.3f} (n={len(unseen)}); claims held "
            f"{sum(claiming) / max(1, len(claiming)):.3f} (n={len(claiming)}); where no article answers, no made-up "
            f"figures {safe / len(outside):.3f} (n={len(outside)})"
        )
    found_it = [any(passage.path in case.relevant for passage in passages[case.id]) for case in unseen]
    for name in answers:
        if name != "ours":
            pairs = pairs_of(unseen, right[name], right["ours"])
            print(f"ours - {name}: facts {difference(pairs)}, each a policy")
            near = list(itertools.compress(pairs, found_it))
            print(f"  where a passage of the article is found: {difference(near)}")
            both = [
                (case, first, second)
                for case, first, second in zip(unseen, held[name], held["ours"], strict=True)
                if first is not None and second is not None
            ]
            if both:
                print(f"  claims held, where both make some: {difference(pairs_of(*zip(*both, strict=True)))}")


def _held(case: Case, text: str, passages: Sequence[Passage]) -> float | None:
    """The share of the answer's claims that the passages support; None if it makes none."""
    shown = tuple(Shown(passage.path, passage.label, passage.text) for passage in passages)
    return SCORERS["grounded"](case, Answer(case.id, "", text, "", passages=shown)).value


if __name__ == "__main__":
    main()
