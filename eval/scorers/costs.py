"""What an answer took, as scores."""

from eval.answers import Answer
from eval.metrics import Score


def costs(answer: Answer) -> dict[str, Score]:
    """By metric; None where it was not measured."""
    cost = answer.cost
    return {
        "first token": Score(cost.first_s),
        "total": Score(cost.total_s),
        "between tokens": Score(cost.between_s),
        "answer tokens": Score(float(cost.completion_tokens)),
        "CPU": Score(cost.cpu_s),
    }
