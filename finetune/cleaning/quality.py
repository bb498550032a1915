"""Which answers are not worth learning: rules on one turn, and one on all of them. The phrases: `phrases.yaml`."""

import functools
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import yaml

from finetune.cleaning.duplicates import answered, asked
from finetune.turns import Turn
from retrieval.language import language_of, sentences, simplified
from retrieval.lexical import terms

SHORTEST, LONGEST = 30, 4_000
"""Bytes in UTF-8 (a Chinese character has three) that an answer has at least, and at most."""
CANNED_QUESTIONS = 10
"""Different questions with one and the same answer, from which it may be canned."""
_HAN = re.compile(r"[\u3400-\u9fff]")
_PERSONAL = re.compile(r"<(?:PRIVATE|[A-Z]+_\d+)>")
_SECRET = re.compile(r"<CVV_\d+>")
_UNFILLED = re.compile(
    r"\[(?:insert|your|customer|user|state|specify|link|date|time|amount|name|order|reference|transaction|phone|email"
    r"|address|account|tracking|number|arn|random|extension)\b[^\]]*\](?!\()|_{3,}|\bX{4,}\b|\{\{\s*\w+\s*\}\}",
    re.IGNORECASE,
)


def fault(turn: Turn, languages: Sequence[str], shortest: int = SHORTEST, longest: int = LONGEST) -> str | None:
    """Why `turn` is not learned from, in a few words that a report can count; None if it is.

    `languages` are those that the base writes; `shortest` and `longest` are bytes of the answer. An answer that
    calls tools need not say anything, and one that declares tools may tell what it did with them.
    """
    answer, calls = turn.answer.content.strip(), bool(turn.answer.tool_calls)
    if not answer:
        return None if calls else "empty"
    if len(answer.encode()) > longest:
        return "too long"
    if language_of(answer) not in languages or language_of(turn.question) not in languages:
        return "language that the base does not write"
    if _other_language(turn, answer):
        return "answers in another language than asked"
    if _SECRET.search(answer) or set(_PERSONAL.findall(answer)) - _named(turn):
        return "personal data that redaction took out"
    if _UNFILLED.search(answer):
        return "a gap that nobody filled in"
    said = [_even(sentence) for sentence in sentences(answer)]
    for reason in ("refusal", "hedging", *(() if turn.tools or calls else ("promise of an action",))):
        if any(_phrases(reason).search(sentence) for sentence in said):
            return str(reason)
    if calls:
        return None
    told = [sentence for sentence in said if not _courtesy(sentence)]
    if not told:
        return "greeting, closing or holding line"
    if all(_phrases("asks").search(sentence) for sentence in told):
        return "only asks back"
    return "too short" if len(answer.encode()) < shortest else None


def canned(turns: Sequence[Turn]) -> frozenset[str]:
    """The answers, as `duplicates.answered` writes them, that are given whatever is asked.

    Such an answer stands under `CANNED_QUESTIONS` or more different questions, fewer than half of which share a word
    with it: "Could I get your full name?" does not say what it is about, "A refund to a card takes 5 days" does.
    That the help centre has no article on something is said of many things, and is no such answer.
    """
    given: dict[str, set[str]] = {}
    written: dict[str, str] = {}
    for turn in turns:
        given.setdefault(answered(turn), set()).add(asked(turn))
        written.setdefault(answered(turn), turn.answer.content)
    found = set()
    for answer, texts in given.items():
        if len(texts) >= CANNED_QUESTIONS and not abstains(written[answer]):
            mine = _subject(answer)
            if 2 * sum(bool(mine & _subject(question)) for question in texts) < len(texts):
                found.add(answer)
    return frozenset(found)


def _subject(text: str) -> set[str]:
    """What a text is about: stems of English words that are not common, pairs of Chinese characters."""
    return {term for term in terms(text) if len(term) > 1}


def core(answer: str) -> str:
    """The answer without sentences that only greet, thank, close or offer more help."""
    return " ".join(sentence for sentence in sentences(answer) if not _courtesy(_even(sentence)))


def abstains(answer: str) -> bool:
    """Whether the answer says that the help centre has no article."""
    return _phrases("abstains").search(unicodedata.normalize("NFKC", simplified(answer))) is not None


def _other_language(turn: Turn, answer: str) -> bool:
    """Whether a Chinese answer follows no Chinese at all, or an English one follows Chinese."""
    asked = " ".join(message.content for message in turn.conversation if message.role == "user")
    if language_of(answer) == "zh":
        return not _HAN.search(asked) and any(char.isalpha() for char in asked)
    return language_of(turn.question) == "zh"


def _courtesy(sentence: str) -> bool:
    """Whether the sentence, or each part of it between commas, only greets, thanks, closes or holds."""
    filler = _phrases("filler")
    return bool(filler.search(sentence)) or all(filler.search(part) for part in re.split(r"[,;]\s*", sentence))


def _even(sentence: str) -> str:
    return unicodedata.normalize("NFKC", simplified(sentence)).replace("’", "'")


def _named(turn: Turn) -> set[str]:
    return {mark for message in turn.conversation for mark in _PERSONAL.findall(message.content)}


@functools.cache
def _phrases(reason: str) -> re.Pattern[str]:
    """The phrases of a reason as one expression."""
    lists = yaml.safe_load((Path(__file__).parent / "phrases.yaml").read_text(encoding="utf-8"))
    pattern = "|".join(f"(?:{phrase})" for phrase in lists[reason])
    for name, listed in lists["words"].items():
        pattern = pattern.replace(f"{{{name}}}", listed.replace("| ", "|"))
    return re.compile(pattern, re.IGNORECASE)
