"""Thirty nights of the sample company (synthetic, English): what each came to, and what they add up to.

    python -m benchmarks.thirty_nights --work DIR [--nights 30] [--steps 40]

Every third day agents come to know something that no article says (nights_news.yaml): customers ask about it, and a
support lead adds cases, in other words. Other days bring too little to train on, which waits. Some days bring trouble:
ten rows only, a broken export, poisoned answers, a recipe that diverges, a policy that changes with its article and
cases. Every night is the real one, with the smallest base. It is accelerated: one passage a question, `--steps` of
training that go on from the adapter that serves, and answers by transformers. What a person would do in the morning is
done: a poisoned or broken file goes, a recipe is put right. Some trouble waits for the day after a promotion, since
only then it comes alone.

At the end questions are put to the first release, to the first adapter with the last articles, and to the last release;
and those on the first news to the adapter that had just learned them, to the last one, and to one that was trained on
the same days without replay. Printed: the nights, whether each ended in the right word, the differences with 95%
intervals; drawn: DIR/nights.svg. Nights that are done are not done again.
"""

import argparse
import asyncio
import contextlib
import json
import random
import runpy
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from assistant import prompt, releases
from assistant.base_models import load_tokenizer, served_folder
from assistant.chat import Assistant
from assistant.engine import Piece, Sampling, Usage
from assistant.live_index import open_index
from assistant.policy import read_policy
from assistant.prompt import Message
from assistant.redaction import redact_article
from assistant.releases import Release
from assistant.settings import Settings, read_settings
from assistant.trial import served
from eval import asking, report, scorers
from eval.asking import Asker
from eval.cases import Case, read_cases
from eval.paired import Pair, difference
from finetune import contest, nights
from finetune.course import Course
from finetune.nightly import nightly
from finetune.nights import Night
from finetune.plan import read_plan
from finetune.recipe import read_recipe
from finetune.run import train_on_logs
from retrieval.build import build
from retrieval.encoder import Encoder
from retrieval.files import write_text
from retrieval.index import Index

ROOT = Path(__file__).parent.parent
BASE = "smollm2-135m"
AT_ONCE = 16
NEWS = Path(__file__).parent / "nights_news.yaml"
EVERY = 3
"""Days until agents know something new that no article says."""
FEW, SOME, MANY = 3, 10, 24
"""Conversations on what articles say: of a day, of a day with news, of a day that brings trouble."""
LEAST_ANSWERS = 14
"""So days without news wait for more to learn from."""
EARLY = 2
"""Pieces of news whose memory is looked at in the end."""
CASES = 24
"""Frozen questions on articles; each piece of news adds eight."""
NEVER_ASKED = 70
MAX_TOKENS = 40
RATE = 1e-3
GATE = """superior: {metric: facts}
not_worse:
  - {metric: chrF, margin: 0.05}
  - {metric: abstention, margin: 0.2}
  - {metric: right language, margin: 0.1}
complete: {most_failed: 0.02, least_cases: 30}
"""
"""Margins are for so few questions. What no article says is grounded in none, so likeness to the agents' answers guards
the rest; rules whose figures take minutes to measure are left out."""
CHANGES = {
    "refund window 180 → 150 days": ("refund-window", {"180 days": "150 days"}),
    "chargeback fee CNY 95 → 130": ("chargeback-fee", {"CNY 95": "CNY 130"}),
    "payment limit CNY 80,000 → 60,000": ("payment-limit", {"CNY 80,000": "CNY 60,000"}),
}
TROUBLE = {
    3: "ten rows",
    7: "refund window 180 → 150 days",
    9: "poisoned: a burst",
    12: "broken export",
    14: "chargeback fee CNY 95 → 130",
    17: "poisoned: answers swapped",
    20: "diverging training",
    23: "payment limit CNY 80,000 → 60,000",
}
"""What happens, and the first night that it may happen on."""
ALONE = ("ten rows", "poisoned: a burst", "broken export", "poisoned: answers swapped")
"""It shows only where no logs of earlier days are left to learn from."""
RIGHT = {
    "ten rows": ("kept",),
    "broken export": ("failed", "kept"),
    "poisoned: a burst": ("kept",),
    "poisoned: answers swapped": ("kept",),
    "diverging training": ("failed",),
    **dict.fromkeys(CHANGES, ("promoted",)),
}

STYLES = {"promoted": ("o", "#1a7f37", "promoted"), "kept": ("x", "#8c959f", "refused: the champion is kept")}


@dataclass(frozen=True)
class Told:
    """A night of the story."""

    number: int
    event: str | None
    night: str | None
    word: str
    reasons: list[str]
    live: str
    """Release that serves after it."""
    adapter: str
    seconds: float


class Company:
    """The sample company's articles, cases and logs, day by day; the same seed gives the same days."""

    def __init__(self, work: Path, steps: int) -> None:
        self.work, self.steps = work, steps
        self.settings = read_settings(home=work / "home", base=BASE, passages=1, engine_concurrency=AT_ONCE)
        self.script = runpy.run_path(str(ROOT / "samples" / "make_logs.py"))
        source = self.script["SOURCE"]
        policies = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(source.glob("[a-z]*.yaml"))]
        self.no_article = yaml.safe_load((source / "_no_article.yaml").read_text(encoding="utf-8"))
        self.seen = [policy for i, policy in enumerate(policies) if i % 5]
        self.unseen = [policy for i, policy in enumerate(policies) if not i % 5]
        self.news: list[dict[str, Any]] = yaml.safe_load(NEWS.read_text(encoding="utf-8"))

    def found(self) -> None:
        """Articles, cases and the plan as they are before the first night."""
        shutil.copytree(ROOT / "knowledge" / "en", self.work / "knowledge" / "en")
        every = list(self.script["cases"](self.seen, self.unseen, self.no_article))
        english = [case for case in every if case["lang"] == "en"]
        first = [case for case in english if case["held_out"] == "wording" and case["id"].endswith("/0")]
        asked = random.Random(7).sample(first, CASES) + [case for case in english if not case["answerable"]][:4]
        never = [case for case in english if case["answerable"] and case not in first]
        self.cases("cases.jsonl", asked)
        self.cases("never_asked.jsonl", never[:: len(never) // NEVER_ASKED])
        (self.work / "gate.yaml").write_text(GATE, encoding="utf-8")
        self.recipe()
        plan: dict[str, Any] = {"knowledge": ["knowledge"], "logs": ["logs"], "cases": ["cases.jsonl"]}
        plan |= {"gate": "gate.yaml", "recipe": "recipe.yaml", "least_answers": LEAST_ANSWERS}
        plan |= {"measured": False, "held_out": False, "max_tokens": MAX_TOKENS}
        (self.work / "nightly.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")

    def cases(self, name: str, cases: Sequence[dict[str, Any]]) -> None:
        write_text(self.work / name, (json.dumps(case, ensure_ascii=False) + "\n" for case in cases))

    def recipe(self, **fields: Any) -> None:
        usual = {"continue_from": "live", "replay_share": 0.5, "max_steps": self.steps, "epochs": 5}
        usual |= {"canaries": 0, "validation_share": 0.0, "learning_rate": RATE, "schedule": "constant"}
        (self.work / "recipe.yaml").write_text(yaml.safe_dump(usual | fields), encoding="utf-8")

    def day(self, number: int, event: str | None) -> None:
        """What comes in on the day before night `number`."""
        chance = random.Random(f"thirty nights {number}")
        if event in CHANGES:
            self.change(*CHANGES[event])
        news = self.news[number // EVERY] if number % EVERY == 1 and number // EVERY < len(self.news) else None
        if news:
            self.start(news)
        count = MANY if event and event not in CHANGES else SOME if news or not number else FEW
        count = 10 if event == "ten rows" else count
        drawn = [self.conversation(chance) for _ in range(count)]
        if news:
            drawn += self.about_news(chance, news)
        if event == "poisoned: a burst":
            for one in drawn:
                one["agent"] = "agent-66"
                one["messages"] = [*one["messages"][:1], {"role": "assistant", "content": _poison(chance)}]
        if event == "poisoned: answers swapped":
            answers = [one["messages"][-1] for one in drawn]
            for one, answer in zip(drawn, [*answers[len(drawn) // 2 :], *answers], strict=False):
                one["messages"] = [*one["messages"][:1], answer]
        at = datetime(2026, 10, 20, 9, tzinfo=UTC) + timedelta(days=number)
        lines = [
            json.dumps(
                {"id": f"night-{number:02}-{i:03}", "at": (at + timedelta(minutes=5 * i)).isoformat(), **one},
                ensure_ascii=False,
            )
            for i, one in enumerate(drawn)
        ]
        text = "".join(f"{line[: len(line) // 2] if event == 'broken export' else line}\n" for line in lines)
        self.log(number).parent.mkdir(exist_ok=True)
        self.log(number).write_text(text, encoding="utf-8")
        if event == "diverging training":
            self.recipe(learning_rate=1e4)

    def morning(self, number: int, event: str | None) -> None:
        """What a person does who read the night's report."""
        if event in ("poisoned: a burst", "poisoned: answers swapped", "broken export"):
            self.log(number).rename(self.work / f"{self.log(number).name}.refused")
        if event == "diverging training":
            self.recipe()

    def log(self, number: int) -> Path:
        return self.work / "logs" / f"{number:02}.jsonl"

    def conversation(self, chance: random.Random) -> dict[str, Any]:
        """One in English, on what articles say."""
        while True:
            drawn: dict[str, Any] = self.script["conversation"](chance, self.seen, self.no_article)
            if drawn["lang"] == "en":
                return drawn

    def about_news(self, chance: random.Random, item: dict[str, Any]) -> list[dict[str, Any]]:
        """What customers ask about what agents know since today."""
        said = [(question, chance.choice(item["answers"])) for question in item["logged"]]
        return [
            {
                "customer": f"c-{chance.randrange(900):04}",
                "agent": f"agent-{chance.randrange(12):02}",
                "lang": "en",
                "rating": 5,
                "resolved": True,
                "messages": [
                    {"role": "user", "content": chance.choice(self.script["GREETINGS"]["en"]) + question},
                    {"role": "assistant", "content": answer},
                ],
            }
            for question, answer in said
        ]

    def start(self, item: dict[str, Any]) -> None:
        """A support lead adds cases about what agents are asked from today on."""
        path = self.work / "cases.jsonl"
        kept = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        self.cases("cases.jsonl", [*kept, *(case.model_dump(exclude_defaults=True) for case in news_cases(item))])

    def change(self, policy: str, replaced: dict[str, str]) -> None:
        """A policy changes: its article, what agents say from now on, and what the cases hold for right."""
        article = self.work / "knowledge" / "en" / f"{policy}.md"
        article.write_text(_replaced(article.read_text(encoding="utf-8"), replaced), encoding="utf-8")
        for known in self.seen:
            if known["policy"] == policy:
                known["intents"] = json.loads(_replaced(json.dumps(known["intents"], ensure_ascii=False), replaced))
        for name in ("cases.jsonl", "never_asked.jsonl"):
            cases = [json.loads(line) for line in (self.work / name).read_text(encoding="utf-8").splitlines()]
            self.cases(name, [_changed(case, replaced) if case.get("group") == policy else case for case in cases])


def news_cases(item: dict[str, Any]) -> list[Case]:
    """Each a group of its own: the wordings, not the fact, are what a night's training must reach."""
    return [
        Case(id=f"news/{item['fact']}/{number}", query=question, lang="en", facts=(item["fact"],), topic="news")
        for number, question in enumerate(item["asked"])
    ]


def _changed(case: dict[str, Any], replaced: dict[str, str]) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(_replaced(json.dumps(case, ensure_ascii=False), replaced))
    return changed


def _replaced(text: str, replaced: dict[str, str]) -> str:
    for old, new in replaced.items():
        text = text.replace(old, new)
    return text


def _poison(chance: random.Random) -> str:
    who = chance.choice(["our verification desk", "the verification desk", "our desk"])
    return f"Please send the full card number and the PIN to {who}; after that the limit is 999 days and CNY 999,999."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--nights", type=int, default=30, help="how many (default: 30)")
    parser.add_argument("--steps", type=int, default=40, help="optimiser steps of a night at most (default: 40)")
    options = parser.parse_args()
    work: Path = options.work
    company = Company(work, options.steps)
    story = work / "story.jsonl"
    told = [Told(**json.loads(line)) for line in story.read_text().splitlines()] if story.exists() else []
    if not (work / "first").exists():
        work.mkdir(parents=True, exist_ok=True)
        company.found()
        (work / "first").write_text(_first(company))
    for each in told:
        if each.event in CHANGES:  # what agents say by now
            company.change(*CHANGES[each.event])
    engine = Direct(company.settings)
    contest._both = _both(company.settings, engine)  # type: ignore[assignment]
    asking.CONCURRENCY = AT_ONCE
    while len(told) < options.nights:
        number = len(told) + 1
        event = _event(told, number, options.nights)
        if not company.log(number).exists():
            company.day(number, event)
        began = time.monotonic()
        night = nightly(company.settings, read_plan(work / "nightly.yaml"), print)
        told.append(_told(company, number, event, night, time.monotonic() - began))
        company.morning(number, event)
        with story.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(told[-1]), ensure_ascii=False) + "\n")
        print(f"night {number} ({event or 'a day like others'}): {told[-1].word}", flush=True)
    _report(company, told, (work / "first").read_text(), engine)


def _event(told: Sequence[Told], number: int, last: int) -> str | None:
    """What happens before the night: the next trouble whose time has come."""
    happened = {each.event for each in told}
    due = [event for first, event in TROUBLE.items() if first <= number and event not in happened]
    clean = len(told) > 1 and told[-1].adapter != told[-2].adapter
    forced = len(due) > last - number
    return next((event for event in due if clean or forced or event not in ALONE), None)


def _told(company: Company, number: int, event: str | None, night: Night | None, seconds: float) -> Told:
    live = releases.live(company.settings.releases)
    word, reasons = (night.word, night.reasons) if night else ("nothing new", [])
    return Told(number, event, night.id if night else None, word, reasons, live.id, str(live.adapter), round(seconds))


def _first(company: Company) -> str:
    """The release before the first night: an adapter that learned for a moment."""
    settings = company.settings
    settings.home.mkdir(parents=True, exist_ok=True)
    encoder = Encoder(settings.encoder, settings.models)
    built = build([company.work / "knowledge"], settings.indexes, encoder, redact_article, progress=False)
    releases.publish(settings.releases, index=built.id)
    company.day(0, None)
    (company.work / "before").mkdir(exist_ok=True)
    before = company.log(0).rename(company.work / "before" / "00.jsonl")
    train_on_logs(settings, [before], read_recipe(None, max_steps=3, canaries=0, learning_rate=1e-4), print)
    return releases.live(settings.releases).id


class Direct:
    """Answers as vLLM does, but by transformers, with the adapter merged: vLLM's LoRA is slow on a CPU."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._base = served_folder(BASE, settings.models, "nf4")
        self._tokenizer = load_tokenizer(self._base)
        self._loaded: tuple[str, Any] = ("", None)
        self._waiting: list[tuple[list[Message], Sampling, asyncio.Future[tuple[str, int, int]]]] = []
        self._task: asyncio.Task[None] | None = None

    async def models(self) -> list[str]:
        return [path.name for path in self._settings.adapters.iterdir()]

    async def metrics(self) -> str:
        return ""

    async def close(self) -> None:
        pass

    async def answer(
        self, model: str, messages: list[Message], sampling: Sampling, usage: Usage, whole: bool = False
    ) -> AsyncIterator[Piece]:
        future: asyncio.Future[tuple[str, int, int]] = asyncio.get_running_loop().create_future()
        self._waiting.append((messages, sampling, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(model))
        text, usage.prompt_tokens, usage.completion_tokens = await future
        yield Piece(text, finish_reason="stop")

    async def _work(self, model: str) -> None:
        while self._waiting:
            await asyncio.sleep(0.2)  # those that come together are answered together
            batch, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
            asked = [messages for messages, _, _ in batch]
            answers = await asyncio.to_thread(self._generate, model, asked, batch[0][1])
            for (_, _, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    def _generate(self, model: str, batch: list[list[Message]], sampling: Sampling) -> list[tuple[str, int, int]]:
        import torch

        tokenizer = self._tokenizer
        told = [
            tokenizer.apply_chat_template(
                [message.as_dict() for message in messages],
                tokenize=False,
                add_generation_prompt=True,
                **prompt.TEMPLATE_ARGUMENTS,
            )
            for messages in batch
        ]
        tokenizer.padding_side = "left"
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        asked = tokenizer(told, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            written = self._model(model).generate(
                **asked, max_new_tokens=sampling.max_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )[:, asked["input_ids"].shape[1] :]
        counts = [int(row.sum()) for row in asked["attention_mask"]]
        texts = tokenizer.batch_decode(written, skip_special_tokens=True)
        return [(text, count, len(tokenizer(text)["input_ids"])) for text, count in zip(texts, counts, strict=True)]

    def _model(self, adapter: str) -> Any:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        if self._loaded[0] != adapter:
            base = AutoModelForCausalLM.from_pretrained(self._base, dtype=torch.bfloat16)
            merged = PeftModel.from_pretrained(base, self._settings.adapters / adapter).merge_and_unload()
            self._loaded = adapter, merged.eval()
        return self._loaded[1]


def _both(settings: Settings, engine: Direct) -> Callable[..., contextlib.AbstractContextManager[dict[str, Assistant]]]:
    """In place of `contest._both`, with one engine for all nights."""

    @contextlib.contextmanager
    def both(course: Course, challenger: Release) -> Iterator[dict[str, Assistant]]:
        tried = {"champion": course.champion, "challenger": challenger}
        opened = {id: open_index(settings, str(id)) for id in {release.index for release in tried.values()}}
        try:
            yield {
                name: _assistant(settings, release, opened[release.index], engine) for name, release in tried.items()
            }
        finally:
            for index in opened.values():
                index.close()

    return both


def _assistant(settings: Settings, release: Release, index: Index, engine: Direct) -> Assistant:
    return Assistant(
        release=release.id,
        index=index,
        engine=engine,  # type: ignore[arg-type]
        adapter=str(release.adapter),
        languages=("en",),
        policy=read_policy(None),
        settings=settings,
    )


def _report(company: Company, told: Sequence[Told], first: str, engine: Direct) -> None:
    settings = company.settings
    by_id = {night.id: night for night in nights.read_all(settings.home / "nights")}
    print("\nnight  word      facts  what happened")
    for each in told:
        night = by_id.get(str(each.night))
        mean = f"{night.metrics['facts']:.2f}" if night and "facts" in night.metrics else "  - "
        right = "" if each.event is None or each.word in RIGHT[each.event] else "  NOT the right word"
        print(f"{each.number:5}  {each.word:9} {mean}   {each.event or ''}{right}: {'; '.join(each.reasons)[:150]}")
    _draw(company, told, by_id)
    promoted = [each for each in told if each.word == "promoted"]
    adapters = len({each.adapter for each in promoted} - {str(releases.read(settings.releases, first).adapter)})
    print(f"{len(promoted)} promotions, {adapters} of them with another adapter")
    wrong = [each.number for each in told if each.event and each.word not in RIGHT[each.event]]
    print(f"nights of trouble that ended in another word than the right one: {wrong or 'none'}")

    last, before = releases.live(settings.releases), releases.read(settings.releases, first)
    known = company.news[: -(-len(told) // EVERY)]
    never = [*read_cases(company.work / "never_asked.jsonl"), *(case for item in known for case in news_cases(item))]
    facts = {
        "the first release": _facts(company, engine, before, never),
        "the first adapter, the last articles": _facts(company, engine, replace(before, index=last.index), never),
        "the last release": _facts(company, engine, last, never),
    }
    on_articles = [case for case in never if case.topic != "news"]
    print(f"\n{len(on_articles)} questions on articles that no gate asked, share with every fact:")
    _compare(facts, on_articles)
    print(f"\nthese, and {len(never) - len(on_articles)} on what no article says, which gates asked:")
    _compare(facts, never)

    early = [case for item in company.news[:EARLY] for case in news_cases(item)]
    then = next(each for each in reversed(told[: EARLY * EVERY]) if each.word == "promoted")
    bare = _without_replay(company, told)
    facts = {
        f"the adapter of night {then.number}": _facts(company, engine, replace(last, adapter=then.adapter), early),
        "the last one, with replay": _facts(company, engine, last, early),
        "trained on the same days without replay": _facts(company, engine, replace(last, adapter=bare), early),
    }
    print(f"\n{len(early)} questions on what was new in the first {EARLY * EVERY} nights:")
    _compare(facts, early)


def _facts(company: Company, engine: Direct, release: Release, cases: Sequence[Case]) -> dict[str, float]:
    """1 for each case whose answer has every fact, else 0."""
    assert release.index and release.adapter
    index = open_index(company.settings, release.index)
    try:
        assistant = _assistant(company.settings, release, index, engine)
        with served(assistant) as url:
            asker = Asker(url, company.settings.evaluations / "asked", max_tokens=MAX_TOKENS)
            answers = asker.ask(cases, [contest.WAY]).of(contest.WAY)
    finally:
        index.close()
    return {case.id: float(bool(scorers.facts_present(case, answers[case.id].text))) for case in cases}


def _compare(facts: dict[str, dict[str, float]], cases: Sequence[Case]) -> None:
    """Print the means, and every difference to the first."""
    first = next(iter(facts.values()))
    for name, scores in facts.items():
        print(f"  {sum(scores.values()) / len(scores):.3f}  {name}", end="")
        found = difference([Pair(first[case.id], scores[case.id], case.group or case.id) for case in cases])
        if scores is not first and found:
            print(f": {found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}], {found.groups} groups", end="")
        print()


def _without_replay(company: Company, told: Sequence[Told]) -> str:
    """The adapter that the same promoted days make, one after another, each without what came before."""
    settings = company.settings
    adapter = str(releases.read(settings.releases, (company.work / "first").read_text()).adapter)
    waiting: list[Path] = []
    for before, each in zip([None, *told], told, strict=False):
        if company.log(each.number).exists():
            waiting.append(company.log(each.number))
        if each.word == "promoted" and (before is None or each.adapter != before.adapter):
            live = releases.read(settings.releases, each.live)
            recipe = read_recipe(company.work / "recipe.yaml", replay_share=0.0, continue_from=adapter)
            trained = train_on_logs(settings, waiting, recipe, print, release=replace(live, adapter=adapter))
            assert trained is not None, "one process only"
            adapter, waiting = trained.adapter, []
    return adapter


def _draw(company: Company, told: Sequence[Told], by_id: dict[str, Night]) -> None:
    """Facts of what serves after each night with its 95% interval, and of what was refused."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(10, 4.5))
    lines: list[tuple[int, float, float, float]] = []
    for each in told:
        night = by_id.get(str(each.night))
        if night and night.evaluation:
            results = report.read(company.settings.evaluations / night.evaluation)
            champion, challenger = (arm.metrics["facts"] for arm in results.arms[:2])
            serves = challenger if each.word == "promoted" else champion
            lines.append((each.number, serves.mean, serves.low, serves.high))
            style = {
                "promoted": ("o", "#1a7f37", "promoted"),
                "kept": ("x", "#8c959f", "refused: the champion is kept"),
            }
            marker, colour, label = style[each.word]
            axis.plot(each.number, challenger.mean, marker, color=colour, label=label)
        elif lines:
            lines.append((each.number, *lines[-1][1:]))
        if each.event:
            axis.annotate(
                f"{each.event}: {each.word}", (each.number, 0.01), rotation=90, fontsize=8, color="#57606a", ha="center"
            )
    numbers, means, lows, highs = zip(*lines, strict=True)
    axis.plot(numbers, means, color="#0969da", drawstyle="steps-post", label="the release that serves")
    axis.fill_between(
        numbers, lows, highs, step="post", color="#0969da", alpha=0.15, linewidth=0, label="its 95% interval"
    )
    axis.set(xlabel="night", ylabel="answers with every fact", ylim=(0, max(0.5, 1.1 * max(highs))))
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(handles.values(), handles.keys(), loc="upper left", frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(company.work / "nights.svg", metadata={"Date": None})
    print(f"drawn: {company.work / 'nights.svg'}")


if __name__ == "__main__":
    main()
