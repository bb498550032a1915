"""The sample company of the thirty nights (synthetic, English): its articles, cases and logs, day by day."""

import json
import random
import runpy
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from assistant.settings import read_settings
from eval.cases import Case
from retrieval.files import write_text

ROOT = Path(__file__).parent.parent
BASE = "smollm2-135m"
AT_ONCE = 16
NEWS = Path(__file__).parent / "nights_news.yaml"
EVERY, TOGETHER = 6, 2
"""Days until agents know something new that no article says, and how many things."""
FEW, SOME, MANY = 1, 5, 24
"""Conversations on what articles say: of a day, of a day with news, of a day that brings trouble."""
BEFORE, FIRST_STEPS = 120, 100
"""Conversations before the first night, and steps of the training on them."""
CLOSING = "Is there anything else I can check for you?"
"""Ends every answer of the sample company: without it in the news, adapters unlearn it, and the gate refuses them."""
LEAST_ANSWERS = 20
"""So days without news wait for more to learn from."""
CASES = 24
"""Frozen questions on articles; each piece of news adds twelve."""
NEVER_ASKED = 50
RATE = 8e-4
MAX_TOKENS = 40
GATE = """superior: {metric: facts}
not_worse:
  - {metric: chrF, margin: 0.1}
  - {metric: abstention, margin: 0.2}
  - {metric: right language, margin: 0.1}
complete: {most_failed: 0.02, least_cases: 25}
"""
"""Margins are for so few questions. What no article says is grounded in none, so likeness to the agents' answers guards
the rest; rules whose figures take minutes to measure are left out."""
CHANGES = {
    "refund window 180 → 150 days": ("refund-window", {"180 days": "150 days"}),
    "chargeback fee CNY 95 → 130": ("chargeback-fee", {"CNY 95": "CNY 130"}),
    "payment limit CNY 80,000 → 60,000": ("payment-limit", {"CNY 80,000": "CNY 60,000"}),
}


class Company:
    """The sample company's articles, cases and logs, day by day; the same seed gives the same days."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.settings = read_settings(home=work / "home", base=BASE, passages=1, engine_concurrency=AT_ONCE)
        self.script = runpy.run_path(str(ROOT / "samples" / "make_logs.py"))
        source = self.script["SOURCE"]
        policies = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(source.glob("[a-z]*.yaml"))]
        self.no_article = yaml.safe_load((source / "_no_article.yaml").read_text(encoding="utf-8"))
        self.seen = [policy for i, policy in enumerate(policies) if i % 5]
        self.unseen = [policy for i, policy in enumerate(policies) if not i % 5]
        told = yaml.safe_load(NEWS.read_text(encoding="utf-8"))
        said = ("logged", "asked")
        worded = [{kind: [text.format(**item) for text in told[kind]] for kind in said} for item in told["news"]]
        self.news: list[dict[str, Any]] = [item | words for item, words in zip(told["news"], worded, strict=True)]

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
        usual: dict[str, Any] = {"continue_from": "live", "replay_share": 0.6, "epochs": 3}
        usual |= {"canaries": 0, "validation_share": 0.0, "learning_rate": RATE}
        (self.work / "recipe.yaml").write_text(yaml.safe_dump(usual | fields), encoding="utf-8")

    def day(self, number: int, event: str | None) -> None:
        """What comes in on the day before night `number`."""
        chance = random.Random(f"thirty nights {number}")
        if event in CHANGES:
            self.change(*CHANGES[event])
        news = self.known(number)[len(self.known(number - 1)) :]
        for item in news:
            self.start(item)
        count = MANY if event and event not in CHANGES else SOME if news else FEW if number else BEFORE
        count = 10 if event == "ten rows" else count
        drawn = [self.conversation(chance) for _ in range(count)]
        for item in news:
            drawn += self.about_news(chance, item)
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

    def known(self, number: int) -> list[dict[str, Any]]:
        """What was new by night `number`."""
        return self.news[: -(-number // EVERY) * TOGETHER] if number > 0 else []

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
                    {"role": "assistant", "content": f"{answer} {CLOSING}"},
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
