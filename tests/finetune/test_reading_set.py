import re
from collections import Counter
from pathlib import Path

import pytest

from assistant.redaction import redact
from eval.cases import read_cases
from finetune.cleaning.split import HeldOut, leaks
from finetune.examples import NO_ANSWER
from finetune.reading_set import Article, articles, reading
from finetune.turns import Turn

COMPANY = Path(__file__).parent.parent.parent / "eval" / "company"
EVERYTHING = 100_000
"""More questions than there are."""


def asked(article: Article) -> list[str]:
    answered = [question.question for section in article.sections for question in section.questions]
    return [*answered, *article.unanswered]


def test_every_answer_stands_in_its_section_sentence_for_sentence() -> None:
    for article in articles():
        for section in article.sections:
            for question in section.questions:
                left = section.text
                for line in filter(None, question.answer.splitlines()):
                    for sentence in re.split(r"(?<=[.!?]) |(?<=[。！？])", line):
                        assert sentence in left, (article.id, question.question, sentence)


def test_no_question_is_asked_twice_and_ids_are_unique() -> None:
    assert len({article.id for article in articles()}) == len(articles())
    questions = Counter(re.sub(r"\W", "", question).casefold() for a in articles() for question in asked(a))
    assert [question for question, count in questions.items() if count > 1] == []


def test_nothing_in_it_looks_like_personal_data() -> None:
    for article in articles():
        for section in article.sections:
            assert redact(section.text) == section.text, article.id
        assert [question for question in asked(article) if redact(question) != question] == []


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_no_question_repeats_a_case_of_the_sample_company(lang: str) -> None:
    files = [COMPANY / f"{lang}.jsonl", COMPANY / f"development-{lang}.jsonl"]
    held_out = [HeldOut.case(case.id, case.query) for file in files for case in read_cases(file) if case.query]
    turns = [Turn(e.conversation, e.answer, e.passages[0].path) for e in reading([lang], EVERYTHING, 3, 0.1, 7)]
    assert len(held_out) > 50
    assert [leak for leak in leaks(turns, held_out)] == []


def test_the_answer_stands_in_one_of_the_passages_which_come_in_any_order() -> None:
    made = reading(["en"], 400, 3, 0.0, 7)
    assert len(made) == 400
    places, shown = set(), Counter()
    for example in made:
        longest = max(re.split(r"(?<=[.!?]) |\n", example.answer.content), key=len)
        (place,) = [i for i, passage in enumerate(example.passages) if longest in passage.text]
        places.add(place)
        shown[len(example.passages)] += 1
        assert len({passage.id for passage in example.passages}) == len(example.passages)
    assert places == {0, 1, 2}
    assert min(shown[count] for count in (1, 2, 3)) > 20


def test_to_a_share_of_the_questions_no_passage_answers() -> None:
    made = reading(["zh"], 100, 3, 0.1, 7)
    assert 8 <= sum(example.answer.content == NO_ANSWER["zh"] for example in made) <= 10
    assert all(example.kind == "reading" and example.passages for example in made)


def test_the_seed_decides_and_only_languages_that_the_base_writes_are_read() -> None:
    assert reading(["en"], 20, 3, 0.1, 7) == reading(["en"], 20, 3, 0.1, 7) != reading(["en"], 20, 3, 0.1, 8)
    assert {passage.language for e in reading(["en"], 50, 3, 0.1, 7) for passage in e.passages} == {"en"}
    assert reading(["en"], 0, 3, 0.1, 7) == reading([], 20, 3, 0.1, 7) == []
