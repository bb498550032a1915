"""Help articles of other trades, with customers' questions and the sentences that answer them: to learn to read on.

A company's logs ask about few things, many times each, which a small base learns by heart. Which sentence of a passage
answers a question that it has not met, it may learn from many articles.
"""

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from pydantic import BaseModel

from assistant.prompt import Message
from finetune.examples import NO_ANSWER, Example
from retrieval.files import content_id
from retrieval.language import Language
from retrieval.passages import Passage

FOLDER = Path(__file__).parent / "reading"


class Question(BaseModel, frozen=True):
    question: str
    answer: str
    """Sentences of the section, as they stand there; steps to the end."""


class Section(BaseModel, frozen=True):
    heading: str
    text: str
    questions: tuple[Question, ...]


class Article(BaseModel, frozen=True):
    id: str
    lang: Language
    trade: str
    title: str
    sections: tuple[Section, ...]
    unanswered: tuple[str, ...]
    """Questions near to its topic that it does not answer."""

    def passage(self, section: Section) -> Passage:
        return Passage(
            id=content_id(self.id, section.heading),
            path=self.id,
            article=self.id,
            title=self.title,
            heading=section.heading,
            text=section.text,
            language=self.lang,
            start=0,
            end=len(section.text),
            place="",
        )


@cache
def articles() -> tuple[Article, ...]:
    lines = [line for path in sorted(FOLDER.glob("*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines()]
    return tuple(map(Article.model_validate_json, lines))


def reading(languages: Sequence[str], wanted: int, passages: int, unanswered_share: float, seed: int) -> list[Example]:
    """At most `wanted` questions, all that are asked of the same one to `passages` passages one after the other.

    The passages are sections of an article, and some of others, in any order. To `unanswered_share` of the questions
    none of them answers.
    """
    chance = random.Random(seed)
    known = [article for article in articles() if article.lang in languages]
    made: list[Example] = []
    unanswered = 0
    for article in chance.sample(known, len(known)):
        left = chance.sample(article.sections, len(article.sections))
        beyond = list(article.unanswered)
        while left and len(made) < wanted:
            taken = [left.pop() for _ in range(min(len(left), chance.randint(1, passages)))]
            asked = [(each.question, each.answer) for section in taken for each in section.questions]
            if beyond and unanswered < unanswered_share * len(made):
                asked.append((beyond.pop(), NO_ANSWER[article.lang]))
                unanswered += 1
            others = chance.sample(known, min(len(known), chance.randint(0, passages - len(taken))))
            shown = [article.passage(section) for section in taken]
            shown += [other.passage(chance.choice(other.sections)) for other in others if other is not article]
            found = tuple(chance.sample(shown, len(shown)))
            made += (
                Example((Message("user", question),), found, Message("assistant", answer), "reading")
                for question, answer in chance.sample(asked, len(asked))
            )
    return made[:wanted]
