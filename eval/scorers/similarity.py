"""How close an answer is in meaning to the reference, by the encoder that searches."""

from collections.abc import Sequence

from assistant.citations import without_markers
from eval.answers import Answer
from eval.cases import Case
from eval.metrics import Score
from retrieval.encoder import Encoder


def similarities(cases: Sequence[Case], answers: Sequence[Answer], encoder: Encoder) -> list[Score]:
    """Cosine of each answer and its reference, both as passages; None without a reference or an answer."""
    texts = [without_markers(answer.text).strip() for answer in answers]
    asked = [n for n, (case, text) in enumerate(zip(cases, texts, strict=True)) if case.reference and text]
    scores = [Score(None)] * len(texts)
    if asked:
        said = encoder.passages([texts[n] for n in asked])
        right = encoder.passages([cases[n].reference or "" for n in asked])
        for n, cosine in zip(asked, (said * right).sum(axis=1), strict=True):
            scores[n] = Score(float(cosine))
    return scores
