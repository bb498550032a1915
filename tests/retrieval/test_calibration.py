"""What the knowledge base asks itself, with an encoder and passages that one can follow by eye."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from retrieval.calibration import WEIGHTS, KnowledgeBase, LabelledQuestion
from retrieval.lexical import terms
from retrieval.passages import Passage
from tests.conftest import KeywordEncoder

LONG = "A refund to your card takes up to five working days after we approve it."


def passage(name: str, text: str, **more: object) -> Passage:
    return replace(Passage(name, f"{name}.md", name, name, "", text, "en", 0, len(text), "line 1"), **more)  # type: ignore[arg-type]


def base(*passages: Passage) -> KnowledgeBase:
    vectors = KeywordEncoder().passages([entry.context for entry in passages])
    return KnowledgeBase(passages, vectors, [terms(entry.context) for entry in passages])


def own_questions(knowledge: KnowledgeBase) -> list[tuple[str, str | None]]:
    return [(question.text, question.rest) for question in knowledge._own_questions()]


def test_a_passage_is_asked_half_of_a_sentence_that_is_left_out_of_it() -> None:
    ((asked, rest),) = own_questions(base(passage("refund", f"{LONG} The fee is two euros in every country.")))
    assert asked and rest
    said = next(text for text in (LONG, "The fee is two euros in every country.") if asked in text)
    assert len(asked.split()) == round(len(said.split()) / 2)
    assert said not in rest
    assert rest.startswith("refund\n")


def test_a_chinese_sentence_is_halved_by_characters() -> None:
    text = "审核通过后五个工作日内退款到您的银行卡。"
    ((asked, _),) = own_questions(base(passage("退款", text, language="zh")))
    assert len(asked) == len(text) // 2
    assert asked in text


def test_titles_are_not_asked_and_short_texts_ask_nothing() -> None:
    assert own_questions(base(passage("How long does a refund take", "Five days."))) == []


def test_an_entry_of_a_list_asks_its_question() -> None:
    entry = passage("faq#2", "Five days.", title="How long does a refund take?", question=True)
    assert own_questions(base(entry)) == [("How long does a refund take?", None)]


def test_the_same_passages_ask_the_same_questions() -> None:
    passages = [passage(f"a{i}", f"{LONG} Number {i} of the refunds is answered here.") for i in range(20)]
    assert own_questions(base(*passages)) == own_questions(base(*passages))


@pytest.mark.parametrize("count", [0, 1])
def test_a_knowledge_base_that_asks_next_to_nothing_is_not_fitted(count: int) -> None:
    encoder = KeywordEncoder()
    knowledge = base(*[passage("refund", LONG), passage("fee", "The fee.")][: count + 1])
    fitted = knowledge.fit([], encoder.queries, encoder.passages, 0.05)
    assert fitted.gate.models == {}


def test_words_weigh_where_they_find_what_meaning_does_not() -> None:
    """Every vector is the same, so that only words can tell forty articles apart."""
    numbers = ["".join(random.Random(i).sample("bcdfghjklmnp", 6)) for i in range(40)]
    passages = [
        passage(f"a{name}", f"The {name} of {name} is {name} for {name} and {name}. More {name}.") for name in numbers
    ]
    vectors = np.ones((40, 1), dtype=np.float32)
    knowledge = KnowledgeBase(passages, vectors, [terms(entry.context) for entry in passages])
    same = lambda texts: np.ones((len(texts), 1), dtype=np.float32)  # noqa: E731
    fitted = knowledge.fit([], same, same, 0.05)
    assert fitted.weights == {"en": WEIGHTS[1]}  # the least weight that does it


def test_words_weigh_nothing_where_they_mislead() -> None:
    """Meaning finds each article; its words stand in another one."""
    passages, vectors = [], np.eye(40, dtype=np.float32)
    for i in range(40):
        mine, others = (f"{'abcdefghijklmnopqrst'[n % 20]}{'xyz'[n // 20]}word" for n in (i, (i + 1) % 40))
        passages.append(
            passage(f"a{i}", f"Here is {others} {others} {others} {others} {others}. Also {mine} {mine} {mine} it is.")
        )
    knowledge = KnowledgeBase(passages, vectors, [terms(entry.context) for entry in passages])
    chosen = {question.text: next(iter(question.articles)) for question in knowledge._own_questions()}
    asked = lambda texts: np.stack([vectors[chosen[t]] if t in chosen else vectors[0] for t in texts])  # noqa: E731
    by_rest = {question.rest: next(iter(question.articles)) for question in knowledge._own_questions()}
    rest = lambda texts: np.stack([vectors[by_rest[text]] for text in texts])  # noqa: E731
    assert knowledge.fit([], asked, rest, 0.05).weights == {"en": 0.0}


def test_customers_questions_count_as_answered_if_a_document_is_named() -> None:
    knowledge = base(passage("refund", LONG), passage("fee", "The fee is two euros."))
    labelled = [LabelledQuestion("where is my refund", ("refund.md",)), LabelledQuestion("any bitcoin?", ())]
    asked = knowledge._other_questions(labelled)[:2]
    assert [(question.answered, question.real, len(question.articles)) for question in asked] == [
        (True, True, 1),
        (False, True, 0),
    ]


def test_everyday_questions_are_asked_in_both_languages() -> None:
    asked = base(passage("refund", LONG))._other_questions([])
    assert Counter(question.language for question in asked) == {"en": 60, "zh": 60}
    assert all(question.everyday and not question.answered for question in asked)


def test_one_more_article_changes_no_other_question() -> None:
    passages = [passage(f"a{i}", f"{LONG} Number {i} of the refunds is answered here.") for i in range(20)]
    before, after = (
        own_questions(base(*passages)),
        own_questions(base(*passages[:7], passage("new", LONG), *passages[7:])),
    )
    assert len(set(after) - set(before)) == 1 and set(before) < set(after)
