"""Draw the sample support logs, and the held-out cases, from `conversations/*.yaml`. All synthetic.

    python samples/make_logs.py --out DIR      writes DIR/logs/YYYY-MM-DD.jsonl and DIR/cases.jsonl

The same seed gives the same files.
"""

import argparse
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

SOURCE = Path(__file__).parent / "conversations"
FIRST_DAY = datetime(2026, 10, 20, tzinfo=UTC)
HELD_OUT_WORDINGS = 2
"""Questions of each intent that go to the cases instead of the logs."""
HELD_OUT_POLICIES = 5
"""Every fifth policy never appears in the logs."""
CASES_PER_UNSEEN_INTENT = 4
LOGGED_NO_ARTICLE = 30
"""Of the 40 questions of each kind that no article answers; the rest go to the cases."""

GREETINGS = {
    "en": ["hi, ", "Hello! ", "hey there, ", "Good morning, ", "sorry to bother you but ", ""],
    "zh": ["你好，", "您好，", "在吗？", "麻烦问下，", "客服你好，", ""],
}
OPENINGS = {
    "en": ("hello, anyone there?", "Hello, this is Tidewing Pay support. What is your question?"),
    "zh": ("有人吗", "您好，这里是潮翼支付客服，请问您的问题是？"),
}
EMPTY_TURNS = {
    "en": ["Please hold.", "One moment.", "Checking."],
    "zh": ["请稍等。", "正在查询。", "稍后回复您。"],
}
THANKS = {
    "en": ["thanks", "ok thank you!", "great, that's all"],
    "zh": ["谢谢", "好的，明白了", "没有了，谢谢"],
}
CLOSINGS = {"en": "You are welcome. Goodbye!", "zh": "不客气，祝您生活愉快！"}
CARDS = ["4111 1111 1111 1111", "5555-5555-5555-4444", "4242424242424242", "６２１２３４５６７８９０１２３２"]
PHONES = {"en": ["+1 202-555-0143", "+44 20 7946 0018"], "zh": ["13800138000", "+86 139 0013 9000"]}
PERSONAL = {
    "en": [" My card is {card}.", " you can call me on {phone}", " (card {card}, cvv 123)"],
    "zh": ["我的卡号是{card}。", "可以打我电话{phone}", "卡{card}，安全码123"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--conversations", type=int, default=1800, help="how many (default: 1800)")
    parser.add_argument("--days", type=int, default=30, help="over how many days (default: 30)")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    write(options.out, options.conversations, options.days, options.seed)


def write(
    out: Path,
    conversations: int = 1800,
    days: int = 30,
    seed: int = 7,
    held_out_policies: int = HELD_OUT_POLICIES,
    cases_per_unseen_intent: int = CASES_PER_UNSEEN_INTENT,
) -> None:
    """Write the logs and the cases under `out`; one of `held_out_policies` policies appears in no log."""
    chance = random.Random(seed)
    policies = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.glob("[a-z]*.yaml"))]
    no_article = yaml.safe_load((SOURCE / "_no_article.yaml").read_text(encoding="utf-8"))
    seen = [policy for i, policy in enumerate(policies) if i % held_out_policies]
    unseen = [policy for i, policy in enumerate(policies) if not i % held_out_policies]

    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {}
    recent: list[dict[str, Any]] = []
    for number in range(conversations):
        if recent and chance.random() < 0.04:
            drawn = dict(chance.choice(recent))  # the same customer asks again and gets the same answer
        else:
            drawn = conversation(chance, seen, no_article)
        recent = [*recent[-50:], drawn]
        second = (number + chance.random()) / conversations * days * 86_400
        at = FIRST_DAY + timedelta(seconds=int(second))
        line = {"id": f"synthetic-{number:05}", "at": at.isoformat().replace("+00:00", "Z"), **drawn}
        lines.setdefault(at.date().isoformat(), []).append(json.dumps(line, ensure_ascii=False))
    for day, day_lines in lines.items():
        (logs / f"{day}.jsonl").write_text("\n".join(day_lines) + "\n", encoding="utf-8")
    with (out / "cases.jsonl").open("w", encoding="utf-8") as file:
        for case in cases(seen, unseen, no_article, cases_per_unseen_intent):
            file.write(json.dumps(case, ensure_ascii=False) + "\n")


def conversation(chance: random.Random, policies: list[Any], no_article: Any) -> dict[str, Any]:
    """One conversation without its id and time."""
    lang = chance.choice(["en", "zh"])
    messages: list[dict[str, str]] = []
    rating: int | None = chance.choices([5, 4, 3, None], [50, 25, 5, 20])[0]
    resolved = True

    def say(role: str, content: str) -> None:
        messages.append({"role": role, "content": content})

    if chance.random() < 0.08:
        say("user", OPENINGS[lang][0])
        say("assistant", OPENINGS[lang][1])
    if chance.random() < 0.12:
        kind = chance.choices(["near", "far"], [3, 1])[0]
        say("user", asked(chance, chance.choice(no_article[kind][:LOGGED_NO_ARTICLE])[lang], lang))
        say("assistant", chance.choice(no_article["answers"][lang]))
    else:
        texts = chance.choice(chance.choice(policies)["intents"])[lang]
        say("user", asked(chance, chance.choice(shuffled(texts["questions"])[HELD_OUT_WORDINGS:]), lang))
        luck = chance.random()
        if luck < 0.07:
            say("assistant", texts["unhelpful"])
            rating, resolved = chance.choice([1, 1, 2, None]), False
        elif luck < 0.09:
            say("assistant", chance.choice(EMPTY_TURNS[lang]))
            rating, resolved = None, False
        else:
            say("assistant", chance.choice(texts["answers"]))
            if chance.random() < 0.25:
                say("user", texts["followup"]["question"])
                say("assistant", texts["followup"]["answer"])
    if resolved and chance.random() < 0.2:
        say("user", chance.choice(THANKS[lang]))
        say("assistant", CLOSINGS[lang])
    return {
        "customer": f"c-{chance.randrange(900):04}",
        "agent": f"agent-{chance.randrange(12):02}",
        "lang": lang,
        "rating": rating,
        "resolved": resolved,
        "messages": messages,
    }


def shuffled(questions: list[str]) -> list[str]:
    """The questions in a fixed random order: those held out shall be neither the plainest nor the oddest."""
    return random.Random(questions[0]).sample(questions, len(questions))


def asked(chance: random.Random, question: str, lang: str) -> str:
    """A question as it is really typed."""
    if chance.random() < 0.25:
        question = chance.choice(GREETINGS[lang]) + question
    if chance.random() < 0.15:
        question = typo(chance, question)
    if chance.random() < 0.06:
        note = chance.choice(PERSONAL[lang])
        question += note.format(card=chance.choice(CARDS), phone=chance.choice(PHONES[lang]))
    return question


def typo(chance: random.Random, text: str) -> str:
    """Two neighbouring characters swapped, or one lost."""
    at = chance.randrange(len(text) - 1)
    if not (text[at].isalpha() and text[at + 1].isalpha()):
        return text
    return text[:at] + (text[at + 1] + text[at] if chance.random() < 0.5 else text[at]) + text[at + 2 :]


def cases(
    seen: list[Any], unseen: list[Any], no_article: Any, per_unseen_intent: int = CASES_PER_UNSEEN_INTENT
) -> Iterator[dict[str, Any]]:
    """Questions that no log holds, in the case format."""
    for split, policies in (("wording", seen), ("policy", unseen)):
        for policy in policies:
            for intent in policy["intents"]:
                for lang in ("en", "zh"):
                    texts = intent[lang]
                    count = HELD_OUT_WORDINGS if split == "wording" else per_unseen_intent
                    held = shuffled(texts["questions"])[:count]
                    for number, question in enumerate(held):
                        yield {
                            "id": f"{intent['id']}/{lang}/{number}",
                            "query": question,
                            "lang": lang,
                            "scope": "in",
                            "relevant": [f"{lang}/{policy['policy']}.md"],
                            "reference": texts["answers"][0],
                            "facts": intent["facts"][lang],
                            "answerable": True,
                            "topic": policy["topic"],
                            "group": policy["policy"],
                            "held_out": split,
                        }
    for scope in ("near", "far"):
        for number, question in enumerate(no_article[scope][LOGGED_NO_ARTICLE:]):
            for lang in ("en", "zh"):
                yield {
                    "id": f"no-article/{scope}/{lang}/{number}",
                    "query": question[lang],
                    "lang": lang,
                    "scope": scope,
                    "relevant": [],
                    "reference": no_article["answers"][lang][0],
                    "answerable": False,
                    "topic": "none",
                    "group": f"no-article/{scope}/{number}",
                    "held_out": "policy",
                }


if __name__ == "__main__":
    main()
