"""The house rules of answers, their length, and their language."""

import re
from collections.abc import Callable

from assistant.citations import without_markers
from eval.answers import Answer
from eval.cases import Case
from eval.metrics import Score
from eval.scorers.phrases import even, phrases
from retrieval.language import Language, language_of, sentences

LENGTHS: dict[Language, tuple[int, int]] = {"en": (3, 90), "zh": (6, 180)}
"""Words in English, characters in Chinese, that an answer has at least and at most."""
MOST_EXCLAMATIONS = 2
_ENDED = re.compile(r"[.!?…。！？][”’\"')）」』*]*$")
_SHOUTED = re.compile(r"\b[A-Z]{2,}(?: [A-Z']+){2,} [A-Z]{2,}\b")


def style(case: Case, answer: Answer) -> Score:
    """Share of the house rules that the answer keeps."""
    text = without_markers(answer.text).strip()
    broken = [said for said in (rule(text) for rule in RULES) if said]
    return Score((len(RULES) - len(broken)) / len(RULES), broken[0] if broken else "")


def words(case: Case, answer: Answer) -> Score:
    """Words of an English answer, characters of a Chinese one."""
    return Score(float(_length(without_markers(answer.text))))


def right_language(case: Case, answer: Answer) -> Score:
    """1 if the answer is in the language of the question, else 0."""
    if case.lang is None:
        return Score(None)
    written = language_of(without_markers(answer.text))
    return Score(float(written == case.lang), "" if written == case.lang else f"{written} instead of {case.lang}")


def _length(text: str) -> int:
    return len("".join(text.split())) if language_of(text) == "zh" else len(text.split())


def _out_of_bounds(text: str) -> str:
    least, most = LENGTHS[language_of(text)]
    length = _length(text)
    return "" if least <= length <= most else f"length {length}, not {least} to {most}"


def _repeated(text: str) -> str:
    said = [sentence.casefold() for sentence in sentences(text)]
    return "" if len(set(said)) == len(said) else "says a sentence twice"


def _cut_off(text: str) -> str:
    return "" if _ENDED.search(text) else "does not end with an end mark"


def _banned(text: str) -> str:
    found = phrases("banned").search(even(text))
    return f'says "{found[0].strip()}"' if found else ""


def _impolite(text: str) -> str:
    plain = even(text)
    if "!!" in plain or plain.count("!") > MOST_EXCLAMATIONS:
        return "exclaims too much"
    return "shouts in capitals" if _SHOUTED.search(plain) else ""


RULES: tuple[Callable[[str], str], ...] = (_out_of_bounds, _repeated, _cut_off, _banned, _impolite)
"""Each says how a text breaks it; nothing where it does not."""
