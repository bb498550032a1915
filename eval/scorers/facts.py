"""Whether an answer states the facts of its case, and no figure of its own where no article answers."""

import re
import unicodedata

from assistant.citations import numbers, without_markers
from assistant.figures import Figure, figures, unsupported
from eval.answers import Answer
from eval.cases import Case
from eval.metrics import Score

_LATIN = r"[a-z\u00df-\u024f]"
_START = rf"(?:(?<!{_LATIN})(?={_LATIN})|(?<![\d.])(?=\d)|(?!{_LATIN}|\d))"
_END = rf"(?:(?<={_LATIN})s?(?!{_LATIN})|(?<=\d)(?!\d|\.\d)|(?<!{_LATIN})(?<!\d))"
"""A plural holds the word; Chinese has no ends of words."""


def facts(case: Case, answer: Answer) -> Score:
    """1 if every fact of the case stands in the answer and nothing forbidden does, else 0."""
    right = facts_present(case, answer.text)
    if right is None:
        return Score(None)
    found, missing = _sorted_out(case.facts, answer.text)
    wrong, _ = _sorted_out(case.forbidden, answer.text)
    told = {"found": found, "missing": missing, "but also says": wrong}
    return Score(float(right), "; ".join(f"{what} {_listed(texts)}" for what, texts in told.items() if texts))


def facts_present(case: Case, answer: str) -> bool | None:
    """Every fact of the case stands in the answer, and nothing forbidden does; None where the case has neither.

    Where nobody knows whether an article answers, the facts count if there are any.
    """
    if case.answerable is False or not (case.facts or case.forbidden):
        return None
    return not _sorted_out(case.facts, answer)[1] and not _sorted_out(case.forbidden, answer)[0]


def invented_figures(case: Case, answer: Answer) -> Score:
    """1 if an answer to a question that no article answers has no figure beyond the question's and the reference's."""
    right = no_invented_figures(case, answer.text)
    if right is None:
        return Score(None)
    new = sorted(numbers(without_markers(answer.text)) - _given(case))
    return Score(float(right), f"made up {_listed(new)}" if new else "")


def no_invented_figures(case: Case, answer: str) -> bool | None:
    """On a question that no article answers: no figure beyond those of the question and the reference."""
    return numbers(without_markers(answer)) <= _given(case) if case.answerable is False else None


def normalised(text: str) -> str:
    """Full-width to half-width, lower case, without thousands separators and white space.

    White space between figures becomes `|`, so that `10, 200` stays two of them, and between Latin letters one space.
    """
    plain = unicodedata.normalize("NFKC", text).lower()
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", plain)
    plain = re.sub(r"(?<=[\d.,])\s+(?=\d)", "|", plain)
    return re.sub(rf"(?<!{_LATIN}) | (?!{_LATIN})", "", re.sub(r"\s+", " ", plain))


def _sorted_out(texts: tuple[str, ...], answer: str) -> tuple[list[str], list[str]]:
    """Those of `texts` that the answer states, and those that it does not."""
    plain = without_markers(answer)
    said, stated = normalised(plain), _values(figures(plain))
    held = {text: _holds(said, normalised(text)) or _states(stated, text.strip()) for text in texts}
    return [text for text in texts if held[text]], [text for text in texts if not held[text]]


def _holds(said: str, fact: str) -> bool:
    """`fact` in `said`, not as a part of a longer number or Latin word: `old` is not in `hold`."""
    return re.search(_START + re.escape(fact) + _END, said) is not None


def _states(stated: frozenset[Figure], fact: str) -> bool:
    """Whether `fact` is a figure and nothing else, and among those stated: 180 days is 一百八十天."""
    return unsupported(fact, frozenset()) == (fact,) and not unsupported(fact, stated)


def _values(stated: frozenset[Figure]) -> frozenset[Figure]:
    """`stated`, amounts also without their unit: a fact that is a bare 8 is stated by 八次 and by 8 days."""
    return stated | {Figure(figure.value, "") for figure in stated if figure.unit not in ("date", "clock")}


def _given(case: Case) -> frozenset[str]:
    asked = " ".join(message["content"] for message in case.conversation())
    return numbers(f"{asked} {case.reference or ''}")


def _listed(texts: list[str]) -> str:
    return ", ".join(f'"{text}"' for text in texts)
