"""What thirty nights came to: their words, what each release answers, what was forgotten; and a chart."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assistant import releases
from assistant.live_index import open_index
from assistant.releases import Release
from assistant.trial import served
from benchmarks.direct_engine import Direct, assistant_of
from benchmarks.nights_company import CHANGES, EVERY, MAX_TOKENS, Company, news_cases
from eval import scorers
from eval.asking import Asker
from eval.cases import Case, read_cases
from eval.paired import Difference, difference, pairs_of
from finetune import contest, nights
from finetune.recipe import read_recipe
from finetune.run import train_on_logs

RIGHT = {
    "ten rows": ("kept",),
    "broken export": ("failed", "kept"),
    "poisoned: a burst": ("kept",),
    "poisoned: answers swapped": ("kept",),
    "diverging training": ("failed",),
    **dict.fromkeys(CHANGES, ("promoted",)),
}
"""Words in which nights of trouble may end."""


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


def report(company: Company, told: Sequence[Told], first: str, engine: Direct) -> None:
    """Print and draw it; `first` is the release before the first night."""
    settings = company.settings
    _words(company, told)
    known = [case for item in company.known(len(told)) for case in news_cases(item)]
    never = read_cases(company.work / "never_asked.jsonl")
    asked = [*never, *known]

    before, last = releases.read(settings.releases, first), releases.live(settings.releases)
    served_ids = list(dict.fromkeys([first, *(each.live for each in told)]))
    facts = {id: _facts(company, engine, releases.read(settings.releases, id), asked) for id in served_ids}
    _steps(first, told, facts, never, company)
    _draw(company.work / "nights.svg", told, [facts[first], *(facts[each.live] for each in told)], asked)
    articles = _facts(company, engine, replace(before, index=last.index), asked)
    compared = {"the first release": facts[first], "the first adapter, the last articles": articles}
    compared["the last release"] = facts[last.id]
    print(f"\n{len(never)} questions on articles that no gate asked, share with every fact:")
    _compare(compared, never)
    print(f"\n{len(known)} on what no article says, which gates asked:")
    _compare(compared, known)
    print(f"\n{len(asked)}, both:")
    _compare(compared, asked)

    learned = _just_learned(company, told, facts, str(before.adapter))
    older = [case for case in known if case.id in learned]
    print(f"\n{len(older)} questions on all that was new before the last adapter:")
    _compare({"each by the release that had just learned it": learned, "the last release": facts[last.id]}, older)

    early = [case for item in company.known(1) for case in news_cases(item)]
    then = next(each for each in reversed(told[:EVERY]) if each.word == "promoted")
    bare = _without_replay(company, told)
    compared = {
        f"the adapter of night {then.number}": _facts(company, engine, replace(last, adapter=then.adapter), early),
        "the last one, with replay": _facts(company, engine, last, early),
        "one that went on, without replay": _facts(company, engine, replace(last, adapter=bare), early),
    }
    print(f"\n{len(early)} questions on what was new in the first {EVERY} nights:")
    _compare(compared, early)


def _just_learned(
    company: Company, told: Sequence[Told], facts: dict[str, dict[str, float]], adapter: str
) -> dict[str, float]:
    """Facts of what was new, by the first release whose adapter had learned it; what the last one learned is left out.

    `adapter` is the one before the first night.
    """
    found: list[dict[str, float]] = []
    known = 0
    for each in told:
        if each.word == "promoted" and each.adapter != adapter:
            news = company.known(each.number)
            cases = [case for item in news[known:] for case in news_cases(item)]
            found.append({case.id: facts[each.live][case.id] for case in cases})
            adapter, known = each.adapter, len(news)
    return {id: right for adapter_facts in found[:-1] for id, right in adapter_facts.items()}


def _words(company: Company, told: Sequence[Told]) -> None:
    by_id = {night.id: night for night in nights.read_all(company.settings.home / "nights")}
    print("\nnight  word      facts  what happened")
    for each in told:
        night = by_id.get(str(each.night))
        mean = f"{night.metrics['facts']:.2f}" if night and "facts" in night.metrics else "  - "
        right = "" if each.event is None or each.word in RIGHT[each.event] else "  NOT the right word"
        print(f"{each.number:5}  {each.word:9} {mean}   {each.event or ''}{right}: {'; '.join(each.reasons)[:150]}")
    promoted = [each for each in told if each.word == "promoted"]
    print(f"{len(promoted)} promotions, {len({each.adapter for each in promoted})} adapters")
    wrong = [each.number for each in told if each.event and each.word not in RIGHT[each.event]]
    print(f"nights of trouble that ended in another word than the right one: {wrong or 'none'}")


def _steps(
    first: str, told: Sequence[Told], facts: dict[str, dict[str, float]], never: Sequence[Case], company: Company
) -> None:
    """Each release that went live beside the one before it, on what was known by then."""
    print("\nfrom release to release, questions known by then:")
    for before, each in zip([first, *(each.live for each in told)], told, strict=False):
        if each.live != before:
            news = [case for item in company.known(each.number) for case in news_cases(item)]
            found = _difference(facts[before], facts[each.live], [*never, *news])
            print(f"  night {each.number:2}: {found}{'  A LOSS' if found and found.high < 0 else ''}")


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
        told = "" if scores is first else f": {_difference(first, scores, cases)}"
        print(f"  {_mean(scores, cases):.3f}  {name}{told}")


def _mean(scores: dict[str, float], cases: Sequence[Case]) -> float:
    return sum(scores[case.id] for case in cases) / len(cases)


def _difference(before: dict[str, float], after: dict[str, float], cases: Sequence[Case]) -> Difference | None:
    return difference(pairs_of(cases, [before[case.id] for case in cases], [after[case.id] for case in cases]))


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


def _draw(path: Path, told: Sequence[Told], facts: Sequence[dict[str, float]], cases: Sequence[Case]) -> None:
    """Facts of what serves after each night, before the first too, on the same questions; and each night's word."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    figure, axis = pyplot.subplots(figsize=(10, 4.5))
    means = [_mean(scores, cases) for scores in facts]
    top = max(0.4, 1.3 * max(means))
    axis.plot(range(len(means)), means, color="#0969da", drawstyle="steps-post", label="the release that serves")
    for word, marker, colour in (("promoted", "o", "#1a7f37"), ("kept", "x", "#8c959f"), ("failed", "s", "#cf222e")):
        at = [each.number for each in told if each.word == word]
        if at:
            axis.plot(at, [means[number] for number in at], marker, color=colour, label=word)
    for each in told:
        if each.event:
            said: dict[str, Any] = {"rotation": 90, "fontsize": 8, "color": "#57606a", "ha": "center", "va": "bottom"}
            at_height = 0.01 * top if means[each.number] > top / 2 else means[each.number] + 0.04 * top
            axis.annotate(each.event, (each.number, at_height), **said)
    axis.set(xlabel="night", ylabel=f"share of {len(cases)} answers with every fact", ylim=(0, top))
    axis.legend(loc="upper left", frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    print(f"drawn: {path}")
