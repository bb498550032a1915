"""Bursts: many near-identical new answers against the knowledge base, or from one author alone, are quarantined."""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from assistant.citations import LEAST_OVERLAP, numbers, overlap, words
from finetune.cleaning.duplicates import SAME, TWIN, answered, asked, connected, joined, similarity
from finetune.turns import Turn
from retrieval.language import sentences, simplified

LEAST_TURNS = 5
WINDOW_S = 7 * 86_400.0
_SUBJECT = 0.4
"""Share of the words of a claim, its figures left out, that a passage about the same subject holds."""
_UNITS = {
    "day": "business days?|working days?|calendar days?|days?|个?(?:工作日|自然日|营业日)|天|日",
    "hour": "hours?|hrs?|个?小时",
    "minute": "minutes?|mins?|分钟",
    "month": "months?|个月",
    "week": "weeks?|周|个?星期",
    "year": "years?|年",
    "%": "%|percent|个百分点",
    "money": "cny|rmb|usd|eur|gbp|hkd|yuan|dollars?|euros?|pounds?|人民币|美元|欧元|元|块|rupees?",
    "time": "times|attempts?|retries|次",
}
_NUMBER = r"\d+(?:[.,]\d+)*"
_UNIT = "|".join(f"(?P<u{n}>{unit})" for n, unit in enumerate(_UNITS.values()))
_QUANTITY = re.compile(
    rf"(?P<money>[$¥€£₹]|\b(?:cny|rmb|usd|eur|gbp|hkd)\b)?\s?(?P<low>{_NUMBER})"
    rf"(?:\s?(?:to|and|-|–|—|~|至|到)\s?(?P<high>{_NUMBER}))?[\s-]?(?:{_UNIT})?(?![a-z])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Burst:
    turns: tuple[Turn, ...]
    authors: tuple[str, ...]
    """Those that are known, sorted."""
    start: datetime | None
    end: datetime | None
    """None where a time is unknown."""
    similarity: float
    """Of the least alike answer to the first, 0 to 1."""
    reason: str


def bursts(
    turns: Sequence[Turn],
    contradicts: Callable[[Turn], str | None],
    window_s: float = WINDOW_S,
) -> list[Burst]:
    """Near-identical answers with the same figures, `LEAST_TURNS` or more, that came all at once and are suspect.

    All at once: within `window_s` seconds came `LEAST_TURNS` of them and over half of all there are, or a time is
    unknown. Suspect: `contradicts` gives evidence against half of them; or all are from one known author, while others
    answered such questions and none of their answers holds its figures and half of its words. Answers that several
    authors give are suspect only if they contradict. The order of `turns` does not matter.
    """
    answers = [answered(turn) for turn in turns]
    alike = connected(len(turns), joined(answers, SAME))
    questions = [asked(turn) for turn in turns]
    subject = connected(len(turns), joined(questions, TWIN))
    on: dict[int, list[int]] = {}
    sets: dict[tuple[int, frozenset[str]], list[int]] = {}
    for i, turn in enumerate(turns):
        on.setdefault(subject[i], []).append(i)
        sets.setdefault((alike[i], numbers(turn.answer.content)), []).append(i)
    found = []
    for members in sets.values():
        mine = sorted((turns[i] for i in members), key=lambda turn: (turn.place, turn.question))
        if len(members) < LEAST_TURNS or not _at_once(mine, window_s):
            continue
        others = {j for i in members for j in on[subject[i]]}.difference(members)
        if reason := _against(mine, contradicts) or _alone(mine, [turns[j] for j in others]):
            times = [turn.at for turn in mine if turn.at] if all(turn.at for turn in mine) else []
            found.append(
                Burst(
                    turns=tuple(mine),
                    authors=tuple(sorted({turn.author for turn in mine if turn.author})),
                    start=min(times, default=None),
                    end=max(times, default=None),
                    similarity=min(similarity(answered(mine[0]), answered(turn)) for turn in mine),
                    reason=reason,
                )
            )
    return sorted(found, key=lambda burst: (-len(burst.turns), burst.turns[0].place))


def report(found: Sequence[Burst]) -> str:
    """What was quarantined and why, as plain text for people; empty if nothing was."""
    lines = []
    for n, burst in enumerate(found, 1):
        when = f"{burst.start:%Y-%m-%d %H:%M} to {burst.end:%Y-%m-%d %H:%M}" if burst.start else "at unknown times"
        by = ", ".join(burst.authors) or "unknown authors"
        lines += [
            f"{n}. {len(burst.turns)} answers, at least {burst.similarity:.2f} alike, by {by}, {when}: {burst.reason}",
            f"   {' '.join(burst.turns[0].answer.content.split())[:300]}",
            f"   {', '.join(turn.place for turn in burst.turns)}",
        ]
    return "\n".join(lines)


def contradiction(turn: Turn, passages: Sequence[str]) -> str | None:
    """Where a figure of the answer is not the knowledge base's; None if none is found.

    A sentence's passage is the one that holds most of its words. If that holds quantities in the unit of the
    sentence's (days, money, %), but not this one, they contradict. Figures that the customer wrote are left out.
    """
    given = numbers(" ".join(message.content for message in turn.conversation))
    for sentence in sentences(turn.answer.content):
        claim = frozenset(word for word in words(simplified(sentence)) if not word[0].isdigit())
        held = [(len(claim & words(simplified(text))) / max(1, len(claim)), -i) for i, text in enumerate(passages)]
        share, at = max(held, default=(0.0, 0))
        if share < _SUBJECT:
            continue
        passage = passages[-at]
        known, quantities = numbers(passage), list(_quantities(passage))
        for value, unit in _quantities(sentence):
            said = sorted({other for other, same in quantities if same == unit}, key=lambda it: (len(it), it))
            if said and value not in known and value not in given:
                return f"says {value} ({unit}) where the knowledge base says {', '.join(said)}: {sentence[:200]}"
    return None


def _quantities(text: str) -> Iterator[tuple[str, str]]:
    """Each number that has a unit, as `citations.numbers` writes it, and the unit; both ends of a range."""
    for match in _QUANTITY.finditer(unicodedata.normalize("NFKC", simplified(text))):
        units = [name for n, name in enumerate(_UNITS) if match[f"u{n}"]]
        unit = "money" if match["money"] else units[0] if units else None
        for value in (match["low"], match["high"]):
            if unit and value:
                yield value.replace(",", ""), unit


def _at_once(turns: Sequence[Turn], window_s: float) -> bool:
    times = sorted(turn.at.timestamp() for turn in turns if turn.at)
    if len(times) < len(turns):
        return True
    most = max(bisect_right(times, start + window_s) - i for i, start in enumerate(times))
    return most >= LEAST_TURNS and 2 * most > len(times)


def _against(turns: Sequence[Turn], contradicts: Callable[[Turn], str | None]) -> str | None:
    evidence: list[str] = []
    for left, turn in zip(range(len(turns), 0, -1), turns, strict=True):
        if 2 * (len(evidence) + left) < len(turns):
            return None  # whatever the rest says, and each takes a search
        if said := contradicts(turn):
            evidence.append(said)
        if 2 * len(evidence) >= len(turns):
            return f"against the knowledge base: {evidence[0]}"
    return None


def _alone(turns: Sequence[Turn], others: Sequence[Turn]) -> str | None:
    """Why these are one author's own, if they are."""
    author = turns[0].author
    if not author or any(turn.author != author for turn in turns):
        return None
    otherwise = [turn for turn in others if turn.author and turn.author != author]
    best = max((overlap(turns[0].answer.content, turn.answer.content) for turn in otherwise), default=1.0)
    return (
        f"only {author} answers so; {len(otherwise)} answers by others say something else"
        if best < LEAST_OVERLAP
        else None
    )
