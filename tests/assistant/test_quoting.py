import re
from types import SimpleNamespace

from assistant.citations import Citer
from assistant.quoting import SENTENCES, quote
from retrieval.index import Found
from retrieval.passages import Passage


def found(name: str, text: str) -> Found:
    return Found(Passage(name, f"{name}.md", name, "Title", "", text, "en", 0, 1, "line 1"), 0.9, 0.9, 0.0)


def ask(keywords, question: str, *entries: Found) -> tuple[str, Citer]:
    citer = Citer(entries)
    return quote(question, entries, SimpleNamespace(embed=keywords.queries), citer), citer


def test_the_nearest_sentences_come_in_reading_order_with_their_passage_number(keywords) -> None:
    first = found("a", "Weather is fine. Your card pays the fee. A refund, a refund and a fee.")
    second = found("b", "A refund is free.")
    lines, citer = ask(keywords, "refund?", first, second)
    # Cosines with "refund": 0, 0, 2/√5, and 1; of the two zeros the first in reading order is taken.
    assert lines == "Weather is fine. [1]\nA refund, a refund and a fee. [1]\nA refund is free. [2]"
    assert [citation.path for citation in citer.citations] == ["a.md", "b.md"]


def test_at_most_three_sentences_are_quoted_word_for_word(keywords) -> None:
    text = "".join(f"Refund number {n}. " for n in range(9))
    lines = ask(keywords, "refund", found("a", text))[0].split("\n")
    assert len(lines) == SENTENCES
    assert all(re.sub(r" \[1\]$", "", line) in text for line in lines)


def test_the_number_of_a_step_is_not_quoted_as_a_sentence(keywords) -> None:
    """`1. Open the app.` was cut after `1.`, which stood alone in answers."""
    lines, _ = ask(keywords, "refund", found("a", "1. Open the refund page.\n2. Tap it."))
    assert lines == "Open the refund page. [1]\nTap it. [1]"
