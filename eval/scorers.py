"""Scores of one answer. Each is True, False, or None where the case does not ask for it."""

import re
import unicodedata
from typing import Any

from assistant.citations import numbers, without_markers
from eval.cases import Case
from retrieval.language import language_of


def normalised(text: str) -> str:
    """Full-width to half-width, lower case, without thousands separators and white space.

    White space between figures becomes `|`, so that `10, 200` stays two of them.
    """
    plain = unicodedata.normalize("NFKC", text).lower()
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", plain)
    return re.sub(r"\s+", "", re.sub(r"(?<=[\d.,])\s+(?=\d)", "|", plain))


def facts_present(case: Case, answer: str) -> bool | None:
    """Every fact of the case stands in the answer, and nothing forbidden does."""
    if not case.answerable or not (case.facts or case.forbidden):
        return None
    said = normalised(without_markers(answer))
    held = all(_holds(said, normalised(fact)) for fact in case.facts)
    return held and not any(_holds(said, normalised(text)) for text in case.forbidden)


def _holds(said: str, fact: str) -> bool:
    """`fact` in `said`, not as a part of a longer number: `5 days` is not in `15 days`."""
    before = r"(?<![\d.])" if fact[:1].isdigit() else ""
    after = r"(?![\d]|\.\d)" if fact[-1:].isdigit() else ""
    return re.search(before + re.escape(fact) + after, said) is not None


def cites_relevant(case: Case, citations: list[dict[str, Any]]) -> bool | None:
    """A citation leads to a relevant article."""
    if not case.relevant:
        return None
    return any(citation["path"] in case.relevant for citation in citations)


def no_invented_figures(case: Case, answer: str) -> bool | None:
    """On a question that no article answers: no figure beyond those of the question and the reference."""
    if case.answerable:
        return None
    asked = " ".join(message["content"] for message in case.conversation())
    return numbers(without_markers(answer)) <= numbers(f"{asked} {case.reference or ''}")


def right_language(case: Case, answer: str) -> bool | None:
    """The answer is in the language of the question."""
    return None if case.lang is None else language_of(without_markers(answer)) == case.lang


def score(case: Case, reply: dict[str, Any]) -> dict[str, bool | None]:
    """All scores of one reply of the chat service."""
    answer = reply["choices"][0]["message"]["content"]
    citations = reply["assistant"]["citations"]
    return {
        "facts": facts_present(case, answer),
        "cited": cites_relevant(case, citations),
        "no invented figures": no_invented_figures(case, answer),
        "right language": right_language(case, answer),
    }
