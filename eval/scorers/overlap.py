"""How much wording an answer shares with the reference: ROUGE-L, BLEU and chrF of one answer, from 0 to 1.

Chinese is cut into characters as sacrebleu does it, and punctuation does not count for ROUGE-L, as in English.
"""

import functools
from typing import Any

from assistant.citations import without_markers
from eval.answers import Answer
from eval.cases import Case
from eval.metrics import Score
from retrieval.language import Language, language_of


def rouge_l(case: Case, answer: Answer) -> Score:
    """F1 of the longest common subsequence (Lin 2004), without stemming."""
    if not case.reference:
        return Score(None)
    found = _rouge(language_of(case.reference)).score(case.reference, without_markers(answer.text))
    return Score(float(found["rougeL"].fmeasure))


def bleu(case: Case, answer: Answer) -> Score:
    """BLEU of the sentence, smoothed exponentially, orders that it is too short for left out."""
    if not case.reference:
        return Score(None)
    measure = _bleu(language_of(case.reference))
    return Score(float(measure.sentence_score(without_markers(answer.text), [case.reference]).score) / 100)


def chrf(case: Case, answer: Answer) -> Score:
    """chrF2 (Popović 2015): character n-grams to the sixth."""
    if not case.reference:
        return Score(None)
    return Score(float(_chrf().sentence_score(without_markers(answer.text), [case.reference]).score) / 100)


class _Chinese:
    """Characters, and words of other scripts, lower case: what rouge-score asks of a tokenizer."""

    def __init__(self) -> None:
        from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

        self._cut = TokenizerZh()  # type: ignore[no-untyped-call]

    def tokenize(self, text: str) -> list[str]:
        return [token for token in self._cut(text.lower()).split() if any(map(str.isalnum, token))]


@functools.cache
def _rouge(language: Language) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Chinese() if language == "zh" else None)


@functools.cache
def _bleu(language: Language) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize="zh" if language == "zh" else "13a", effective_order=True)


@functools.cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()
