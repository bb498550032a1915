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
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from assistant import releases
from assistant.live_index import open_index
from assistant.redaction import redact_article
from assistant.releases import Release
from assistant.trial import served
from benchmarks.direct_engine import Direct, assistant_of, both
from benchmarks.nights_company import AT_ONCE, BASE, CHANGES, EVERY, MAX_TOKENS, Company, news_cases
from eval import asking, report, scorers
from eval.asking import Asker
from eval.cases import Case, read_cases
from eval.paired import Pair, difference
from finetune import contest, nights
from finetune.nightly import nightly
from finetune.nights import Night
from finetune.plan import read_plan
from finetune.recipe import read_recipe
from finetune.run import train_on_logs
from retrieval.build import build
from retrieval.encoder import Encoder

EARLY = 2
"""Pieces of news whose memory is looked at in the end."""
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
    engine = Direct(company.settings, BASE, AT_ONCE)
    contest._both = both(company.settings, engine)  # type: ignore[assignment]
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
        assistant = assistant_of(company.settings, release, index, engine)
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
