import pytest

from eval.answers import Answer
from eval.cases import Case
from eval.metrics import Score
from eval.scorers import similarities


def answer(text: str) -> Answer:
    return Answer("1", "rag", text, "grounded")


def test_similarity_is_the_cosine_of_answer_and_reference(keywords) -> None:
    asked = [Case(query="?", reference=text) for text in ("refund", "refund", "refund fee", "refund")]
    answers = map(answer, ["a refund [1]", "a fee", "refund", "退款"])
    found = similarities(asked, list(answers), keywords)
    assert [score.value for score in found] == pytest.approx([1, 0, 0.5**0.5, 0])
    assert "a refund" in keywords.embedded  # without its marker


def test_without_reference_or_answer_there_is_no_similarity(keywords) -> None:
    asked = [Case(query="?"), Case(query="?", reference="refund"), Case(query="?", reference="refund")]
    found = similarities(asked, [answer("refund"), answer(" "), answer("refund")], keywords)
    assert found == [Score(None), Score(None), Score(pytest.approx(1))]
    assert similarities([], [], keywords) == []
