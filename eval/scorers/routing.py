"""Whether an answer came by the right route, and gave up where it should and only there."""

from assistant.citations import LEAST_OVERLAP, overlap, without_markers
from assistant.figures import figures
from eval.answers import Answer
from eval.cases import Case
from eval.metrics import Score
from eval.scorers.claims import claims, gives_up

GIVES_UP = ("handoff", "refuse", "clarify")
"""Routes whose text says that it does not answer."""


def route(case: Case, answer: Answer) -> Score:
    """1 if the route is that of the case, else 0; passages that were quoted are grounded."""
    if case.route is None:
        return Score(None)
    taken = "grounded" if answer.route == "quoted" else answer.route
    right = taken == ("grounded" if case.route == "quoted" else case.route)
    return Score(float(right), "" if right else f"{answer.route} instead of {case.route}")


def abstention(case: Case, answer: Answer) -> Score:
    """1 if the answer abstains where no article answers, and does not where one does, else 0; None where unknown."""
    if case.answerable is None:
        return Score(None)
    abstained = abstains(case, answer)
    if abstained != case.answerable:
        return Score(1.0)
    return Score(0.0, "abstains though an article answers" if abstained else "answers though no article does")


def abstains(case: Case, answer: Answer) -> bool:
    """Whether the answer claims nothing, and says that it does not know or offers a person.

    Where no article answers, what the reference says too, such as opening hours, is no claim of the answer's own.
    """
    if answer.route in GIVES_UP:
        return True
    text = without_markers(answer.text)
    allowed = (case.reference or "") if case.answerable is False else ""
    asked = " ".join(message["content"] for message in case.conversation())
    own = [claim for claim in claims(text, figures(f"{asked}\n{allowed}")) if overlap(claim, allowed) < LEAST_OVERLAP]
    return gives_up(text) and not own
