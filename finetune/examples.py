"""Logged answers become training examples in the very prompt that serves.

An adapter trained without passages can make answers from passages worse (Zhang et al., "RAFT", arXiv
2403.10131, table 1). So each logged answer is paired with what our own index returns for its question.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

from assistant import prompt
from assistant.citations import LEAST_OVERLAP, numbers, overlap
from assistant.prompt import Message
from finetune.cleaning.quality import abstains, core
from finetune.recipe import Recipe
from finetune.turns import Turn
from retrieval.index import Index, Query, Search
from retrieval.language import Language, language_of, sentences
from retrieval.passages import Passage

_TOGETHER = 64
"""Questions embedded at once."""
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
_WORDINGS = {
    "en": ("Hi, {}", "{} Thanks!", "I have a question: {}", "Hello, could you help me? {}"),
    "zh": ("你好，{}", "{}谢谢", "想问一下，{}", "您好，请问{}"),
}


@dataclass(frozen=True)
class Example:
    conversation: tuple[Message, ...]
    """Ends with the customer's message to answer, or with a tool's reply."""
    passages: tuple[Passage, ...]
    answer: Message
    kind: str
    """`retrieved`, `inserted` (the supporting passage was not retrieved and was put in), `distractors`,
    `none`, `bare` (trained without an index); and, both asked without the prompt, `general` (no support question) or
    `canary` (a made-up secret, to measure memorising)."""
    tools: tuple[Mapping[str, Any], ...] = ()

    def messages(self) -> list[Message]:
        plain = self.kind in ("general", "canary")
        return list(self.conversation) if plain else prompt.build(self.conversation, self.passages)


def examples(turns: Sequence[Turn], index: Index | None, recipe: Recipe, passages: int) -> Iterator[Example | None]:
    """One example for each turn, in order; None where the answer has figures that no article holds.

    Without an index the examples are bare pairs. `passages` is how many the serving prompt carries.
    """
    if index is None:
        yield from (Example(turn.conversation, (), turn.answer, "bare", turn.tools) for turn in turns)
        return
    chance = random.Random(recipe.seed)
    for start in tqdm(range(0, len(turns), _TOGETHER), desc="searching as serving does", unit="batch"):
        batch = turns[start : start + _TOGETHER]
        asked = index.search_many(
            [prompt.search_query(turn.conversation) for turn in batch], passages, _languages(batch)
        )
        supports = [supporting(turn.answer.content, search) for turn, search in zip(batch, asked, strict=True)]
        # What the answer itself finds is only needed where the question found no support.
        lacking = [turn for turn, support in zip(batch, supports, strict=True) if support is None]
        told = [Query(f"{turn.question} {turn.answer.content}") for turn in lacking]
        wider = iter(index.search_many(told, passages, _languages(lacking)))
        for turn, search, support in zip(batch, asked, supports, strict=True):
            if support:
                yield _supported(turn, search, support, recipe, chance)
            else:
                answered = next(wider)
                support = supporting(turn.answer.content, answered)
                yield (
                    _supported(turn, search, support, recipe, chance)
                    if support
                    else _unsupported(turn, search, answered)
                )


def paraphrased(found: Sequence[Example], seed: int) -> Iterator[Example]:
    """Each example once more, its question in another wording by a template."""
    chance = random.Random(seed)
    for example in found:
        *before, question = example.conversation
        if question.role == "user":
            wording = chance.choice(_WORDINGS[language_of(question.content)])
            asked = replace(question, content=wording.format(question.content))
            yield replace(example, conversation=(*before, asked))


def _languages(turns: Sequence[Turn]) -> list[Language]:
    return [language_of(turn.question) for turn in turns]


def _supported(turn: Turn, search: Search, support: Passage, recipe: Recipe, chance: random.Random) -> Example:
    """An answer that `support` holds: with it among the passages, or without, and then saying so."""
    retrieved = [found.passage for found in search.found]
    luck = chance.random()
    if luck < recipe.none_share + recipe.distractors_share and not turn.answer.tool_calls:
        others = tuple(passage for passage in retrieved if passage.article != support.article)
        shown = others if luck >= recipe.none_share else ()
        answer = Message("assistant", NO_ANSWER[language_of(turn.question)])
        return Example(turn.conversation, shown, answer, "distractors" if shown else "none", turn.tools)
    if support in retrieved:
        return Example(turn.conversation, tuple(retrieved), turn.answer, "retrieved", turn.tools)
    retrieved[chance.randrange(len(retrieved))] = support
    return Example(turn.conversation, tuple(retrieved), turn.answer, "inserted", turn.tools)


def _unsupported(turn: Turn, search: Search, answered: Search) -> Example | None:
    """An answer that no passage holds: that there is no article, to be learned; or a figure made up, not to be.

    A figure may be the customer's own; and where the answer says that there is no article, what the articles say of
    the way to a person.
    """
    shown = tuple(found.passage for found in search.found) if search.hit else ()
    known = [*(passage.text for passage in shown), *(message.content for message in turn.conversation)]
    if abstains(turn.answer.content):
        known += [found.passage.text for found in answered.found]
    if not numbers(turn.answer.content) <= numbers(" ".join(known)):
        return None
    return Example(turn.conversation, shown, turn.answer, "distractors" if shown else "none", turn.tools)


def supporting(answer: str, search: Search) -> Passage | None:
    """The found passage that supports the answer's first sentence after its courtesies, where the fact stands."""
    claim = next(iter(sentences(core(answer))), answer)
    scored = [(overlap(claim, found.passage.context), -i) for i, found in enumerate(search.found)]
    best, position = max(scored, default=(0.0, 0))
    return search.found[-position].passage if best >= LEAST_OVERLAP else None
