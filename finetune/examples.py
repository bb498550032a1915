"""Logged answers become training examples in the very prompt that serves.

An adapter trained without passages can make answers from passages worse (Zhang et al., "RAFT", arXiv
2403.10131, table 1). So each logged answer is paired with what our own index returns for its question.
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from assistant import prompt
from assistant.citations import LEAST_OVERLAP, numbers, overlap
from assistant.prompt import Message
from assistant.redaction import Redactor
from finetune.logs import BadLine, Conversation
from finetune.recipe import Recipe
from retrieval.index import Index, Query, Search
from retrieval.language import Language, language_of, sentences
from retrieval.passages import Passage

SHORTEST_ANSWER = 30
"""Characters (a Chinese one counts three) under which an agent's turn is no answer: greetings, 'please hold'."""
_TOGETHER = 64
"""Questions embedded at once."""
WORST_RATING = 3
"""Conversations rated lower are not learned from."""
NO_ANSWER = {
    "en": (
        "The help centre does not cover this, so I cannot give you a figure. A person can help you under "
        "Me > Help > Contact us. Is there anything else I can check for you?"
    ),
    "zh": (
        "帮助中心没有涉及这个问题的内容，因此我无法给出具体数字。您可以通过“我的 > 帮助 > 联系客服”联系人工。"
        "还有什么可以帮您确认的吗？"
    ),
}


@dataclass(frozen=True)
class Example:
    conversation: tuple[Message, ...]
    """Ends with the customer's message to answer."""
    passages: tuple[Passage, ...]
    answer: str
    kind: str
    """`retrieved`, `inserted` (the supporting passage was not retrieved and was put in), `distractors`,
    `none`, or `bare` (trained without an index)."""

    def messages(self) -> list[Message]:
        return prompt.build(self.conversation, self.passages)


Turn = tuple[tuple[Message, ...], str]
"""A conversation up to a customer's message, and the agent's answer to it."""


@dataclass
class Prepared:
    examples: list[Example]
    bad_lines: list[BadLine]
    counts: Counter[str]
    """Conversations and turns by what became of them, and redactions by kind."""


def prepare(
    logs: Iterable[Conversation | BadLine],
    index: Index | None,
    recipe: Recipe,
    languages: Sequence[str],
    passages: int,
) -> Prepared:
    """Redact and clean the logs, and build one example for each answer worth learning.

    Without an index the examples are bare pairs. `passages` is how many the serving prompt carries.
    """
    prepared = Prepared([], [], Counter())
    counts = prepared.counts
    turns: dict[tuple[str, str], Turn] = {}
    for entry in logs:
        if isinstance(entry, BadLine):
            prepared.bad_lines.append(BadLine(entry.place, entry.reason, Redactor()(entry.text)))
            counts["conversations: malformed"] += 1
            continue
        if entry.resolved is False or (entry.rating is not None and entry.rating < WORST_RATING):
            counts["conversations: unresolved or rated badly"] += 1
            continue
        counts["conversations: kept"] += 1
        redactor = Redactor()
        messages = tuple(Message(message.role, redactor(message.content).strip()) for message in entry.messages)
        counts.update({f"redacted: {kind}": count for kind, count in redactor.counts.items()})
        for conversation, answer in _answers(messages):
            question = conversation[-1].content
            if language_of(answer) not in languages or language_of(question) not in languages:
                counts["turns: language that the base does not write"] += 1
            elif len(answer.encode()) < SHORTEST_ANSWER:
                counts["turns: too short to be an answer"] += 1
            elif (question, answer) in turns:
                counts["turns: duplicate"] += 1
            else:
                turns[question, answer] = (conversation, answer)
    kept = list(turns.values())
    random.Random(recipe.seed).shuffle(kept)
    if recipe.max_examples and len(kept) > recipe.max_examples:
        counts["turns: beyond max_examples"] = len(kept) - recipe.max_examples
        kept = kept[: recipe.max_examples]
    for example in _examples(kept, index, recipe, passages):
        counts[f"turns: {example.kind}" if example else "turns: figures that no article holds"] += 1
        if example:
            prepared.examples.append(example)
    return prepared


def _answers(messages: Sequence[Message]) -> Iterator[Turn]:
    """Each agent turn that follows a customer's, with the conversation up to it."""
    for i, message in enumerate(messages):
        if message.role == "assistant" and i and messages[i - 1].role == "user" and messages[i - 1].content:
            yield tuple(messages[:i]), message.content


def _examples(turns: list[Turn], index: Index | None, recipe: Recipe, passages: int) -> Iterator[Example | None]:
    """One example for each turn; None where the answer has figures that no article holds."""
    if index is None:
        yield from (Example(conversation, (), answer, "bare") for conversation, answer in turns)
        return
    chance = random.Random(recipe.seed)
    for start in tqdm(range(0, len(turns), _TOGETHER), desc="searching as serving does", unit="batch"):
        batch = turns[start : start + _TOGETHER]
        asked = index.search_many(
            [prompt.search_query(conversation) for conversation, _ in batch], passages, _languages(batch)
        )
        supports = [_supporting(answer, search) for (_, answer), search in zip(batch, asked, strict=True)]
        # What the answer itself finds is only needed where the question found no support.
        lacking = [turn for turn, support in zip(batch, supports, strict=True) if support is None]
        told = [Query(f"{conversation[-1].content} {answer}") for conversation, answer in lacking]
        wider = iter(index.search_many(told, passages, _languages(lacking)))
        for turn, search, support in zip(batch, asked, supports, strict=True):
            if support:
                yield _supported(turn, search, support, recipe, chance)
            else:
                answered = next(wider)
                support = _supporting(turn[1], answered)
                yield (
                    _supported(turn, search, support, recipe, chance)
                    if support
                    else _unsupported(turn, search, answered)
                )


def _languages(turns: Sequence[Turn]) -> list[Language]:
    return [language_of(conversation[-1].content) for conversation, _ in turns]


def _supported(turn: Turn, search: Search, support: Passage, recipe: Recipe, chance: random.Random) -> Example:
    """An answer that `support` holds: with it among the passages, or without, and then saying so."""
    conversation, answer = turn
    language = language_of(conversation[-1].content)
    retrieved = [found.passage for found in search.found]
    luck = chance.random()
    if luck < recipe.none_share:
        return Example(conversation, (), NO_ANSWER[language], "none")
    if luck < recipe.none_share + recipe.distractors_share:
        others = tuple(passage for passage in retrieved if passage.article != support.article)
        return Example(conversation, others, NO_ANSWER[language], "distractors" if others else "none")
    if support in retrieved:
        return Example(conversation, tuple(retrieved), answer, "retrieved")
    retrieved[chance.randrange(len(retrieved))] = support
    return Example(conversation, tuple(retrieved), answer, "inserted")


def _unsupported(turn: Turn, search: Search, answered: Search) -> Example | None:
    """An answer that no passage holds: that there is no article, to be learned; or a figure made up, not to be."""
    conversation, answer = turn
    if not numbers(answer) <= numbers(" ".join(found.passage.text for found in answered.found)):
        return None
    shown = tuple(found.passage for found in search.found) if search.hit else ()
    return Example(conversation, shown, answer, "distractors" if shown else "none")


def _supporting(answer: str, search: Search) -> Passage | None:
    """The found passage that supports the answer's first sentence, where the house style puts the fact."""
    claim = next(iter(sentences(answer)), answer)
    scored = [(overlap(claim, found.passage.context), -i) for i, found in enumerate(search.found)]
    best, position = max(scored, default=(0.0, 0))
    return search.found[-position].passage if best >= LEAST_OVERLAP else None
