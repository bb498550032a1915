"""Thirty nights of the sample company (synthetic, English): what each came to, and what they add up to.

    python -m benchmarks.thirty_nights --work DIR [--nights 30]

Every sixth day agents come to know two things that no article says (nights_news.yaml): customers ask about it, and a
support lead adds cases, in other words. Other days bring too little to train on, which waits. Some days bring trouble:
ten rows only, a broken export, poisoned answers, a recipe that diverges, a policy that changes with its article and
cases. Every night is the real one, with the smallest base. It is accelerated: one passage a question, training goes on
from the adapter that serves, and answers come from transformers. What a person would do in the morning is done: a
poisoned or broken file goes, a recipe is put right. Some trouble waits for the day after a promotion, since only then
it comes alone.

In the end every release that served is asked the same questions: on articles, which no gate asked, and on all that was
new, which gates asked. Those on the first news are put to the adapter that had just learned them, to the last one, and
to one that went on from one promoted night to the next without replay. Printed: the nights, whether each ended in the
right word, differences with 95% intervals; drawn: DIR/nights.svg. Nights that are done are not done again.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from assistant import releases
from assistant.redaction import redact_article
from benchmarks import nights_report
from benchmarks.direct_engine import Direct, both
from benchmarks.nights_company import AT_ONCE, BASE, CHANGES, FIRST_STEPS, Company
from benchmarks.nights_report import Told
from eval import asking
from finetune import contest
from finetune.nightly import nightly
from finetune.nights import Night
from finetune.plan import read_plan
from finetune.recipe import read_recipe
from finetune.run import train_on_logs
from retrieval.build import build
from retrieval.encoder import Encoder

TROUBLE = {
    2: "ten rows",
    4: "refund window 180 → 150 days",
    8: "poisoned: a burst",
    10: "chargeback fee CNY 95 → 130",
    14: "broken export",
    16: "payment limit CNY 80,000 → 60,000",
    20: "poisoned: answers swapped",
    22: "diverging training",
}
"""What happens, and the first night that it may happen on."""
ALONE = ("ten rows", "poisoned: a burst", "broken export", "poisoned: answers swapped")
"""It shows only where no logs of earlier days are left to learn from."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--nights", type=int, default=30, help="how many (default: 30)")
    options = parser.parse_args()
    work: Path = options.work
    company = Company(work)
    story = work / "story.jsonl"
    told = [Told(**json.loads(line)) for line in story.read_text().splitlines()] if story.exists() else []
    if not (work / "first").exists():
        work.mkdir(parents=True, exist_ok=True)
        company.found()
        (work / "first").write_text(_first(company))
    for each in told:
        if each.event in CHANGES:  # what agents say by now
            company.change(*CHANGES[each.event])
    engine = Direct(company.settings, BASE, AT_ONCE)
    contest.both = both(company.settings, engine)  # type: ignore[assignment]
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
    nights_report.report(company, told, (work / "first").read_text(), engine)


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
    """The release before the first night: an adapter that learned what articles say from earlier logs."""
    settings = company.settings
    settings.home.mkdir(parents=True, exist_ok=True)
    encoder = Encoder(settings.encoder, settings.models)
    built = build([company.work / "knowledge"], settings.indexes, encoder, redact_article, progress=False)
    releases.publish(settings.releases, index=built.id)
    company.day(0, None)
    (company.work / "before").mkdir(exist_ok=True)
    before = company.log(0).rename(company.work / "before" / "00.jsonl")
    train_on_logs(settings, [before], read_recipe(None, max_steps=FIRST_STEPS, canaries=0, validation_share=0.0), print)
    return releases.live(settings.releases).id


if __name__ == "__main__":
    main()
