"""Scores of answers, by the names of `eval.metrics`."""

from eval.answers import Answer
from eval.cases import Case
from eval.metrics import Score
from eval.scorers import citing, facts, groundedness, overlap, routing, safety, style
from eval.scorers.costs import costs
from eval.scorers.facts import facts_present, no_invented_figures
from eval.scorers.groundedness import entailments
from eval.scorers.similarity import similarities

__all__ = ["SCORERS", "entailments", "facts_present", "no_invented_figures", "score", "similarities"]

SCORERS = {
    "facts": facts.facts,
    "grounded": groundedness.grounded,
    "citation precision": citing.citation_precision,
    "citation recall": citing.citation_recall,
    "abstention": routing.abstention,
    "route": routing.route,
    "no invented figures": facts.invented_figures,
    "ROUGE-L": overlap.rouge_l,
    "BLEU": overlap.bleu,
    "chrF": overlap.chrf,
    "right language": style.right_language,
    "style": style.style,
    "safe": safety.safe,
    "words": style.words,
}


def score(case: Case, answer: Answer) -> dict[str, Score]:
    """All scores that need no model, and the costs."""
    return {name: scorer(case, answer) for name, scorer in SCORERS.items()} | costs(answer)
