"""Logged answers become training examples in the very prompt that serves.

An adapter trained without passages can make answers from passages worse (Zhang et al., "RAFT", arXiv
2403.10131, table 1). So each logged answer is paired with what our own index returns for its question.
"""

import itertools
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

from assistant import prompt
from assistant.citations import LEAST_OVERLAP, numbers, overlap, words
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
        "The help centre does not cover this, so I cannot give you a figure. Someone in our support team can help "
        "you. Is there anything else I can check for you?"
    ),
    "zh": "帮助中心没有涉及这个问题的内容，因此我无法给出具体数字。您可以联系人工客服。还有什么可以帮您确认的吗？",
}
LOGGED = ("retrieved", "inserted", "distractors", "none", "bare")
"""Kinds of examples that come of a logged answer."""
_QUOTED = 3
"""Parts of a passage at most, for one sentence of an answer."""
_STEP = re.compile(r"(?:^|(?<=\s))\d{1,2}[.)、](?=\s|[^\d\s])")
"""The number of a step."""
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
    `none`, `bare` (trained without an index), `reading` (of another trade); and, both asked without the prompt,
    `general` (no support question) or `canary` (a made-up secret, to measure memorising)."""
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


def _supported(turn: Turn, search: Search, support: Passage, recipe: Recipe, chance: random.Random) -> Example | None:
    """An answer that `support` holds: with it among the passages, or without, and then saying so.

    None where a later sentence has a figure that none of them holds.
    """
    retrieved = [found.passage for found in search.found]
    luck = chance.random()
    if luck < recipe.none_share + recipe.distractors_share and not turn.answer.tool_calls:
        claim = _claim(turn.answer.content)
        others = tuple(
            passage
            for passage in retrieved
            if passage.article != support.article and overlap(claim, passage.context) < LEAST_OVERLAP
        )
        shown = others if luck >= recipe.none_share else ()
        answer = Message("assistant", NO_ANSWER[language_of(turn.question)])
        return Example(turn.conversation, shown, answer, "distractors" if shown else "none", turn.tools)
    kind = "retrieved"
    if support not in retrieved:
        retrieved[chance.randrange(len(retrieved))] = support
        kind = "inserted"
    if not _holds(turn, [passage.context for passage in retrieved]):
        return None
    answer = turn.answer
    looked_up = answer.tool_calls or turn.conversation[-1].role == "tool"
    if recipe.answers == "quoted" and turn.source != "correction" and not looked_up:
        answer = replace(answer, content=in_passages_words(answer.content, retrieved))
    return Example(turn.conversation, tuple(retrieved), answer, kind, turn.tools)


def _unsupported(turn: Turn, search: Search, answered: Search) -> Example | None:
    """An answer that no passage holds, as it was logged; None where it has a figure from nowhere.

    Where the answer says that there is no article, a figure may be of what the articles say of the way to a person.
    """
    shown = tuple(found.passage for found in search.found) if search.hit else ()
    known = [passage.context for passage in shown]
    if abstains(turn.answer.content):
        known += [found.passage.context for found in answered.found]
    if not _holds(turn, known):
        return None
    return Example(turn.conversation, shown, turn.answer, "distractors" if shown else "none", turn.tools)


def _holds(turn: Turn, known: Sequence[str]) -> bool:
    """Whether each figure of the answer stands in what is known, or is the customer's own, or numbers a step."""
    said = [message.content for message in turn.conversation if message.role in ("user", "tool")]
    return numbers(_STEP.sub("", turn.answer.content)) <= numbers(" ".join([*known, *said]))


def in_passages_words(answer: str, passages: Sequence[Passage]) -> str:
    """The answer with each sentence that a passage supports in that passage's own words, steps with all that follow.

    So the log teaches which sentences answer, and the article how they read. What no passage holds stays as it was
    said, as do steps that the answer numbers itself. Copying is what a small base learns soonest.
    """
    joint = "" if language_of(answer) == "zh" else " "
    told: set[str] = set()
    lines = []
    for line in answer.splitlines():
        made, at = "", 0
        for sentence in [] if _STEP.match(line) else sentences(line):
            source = _source(sentence, passages)
            if source:
                begin = line.index(sentence, at)
                new = [part for part in source if part not in told]
                told.update(new)
                made += line[at:begin] + joint.join(new) if new else line[at:begin].rstrip()
                at = begin + len(sentence)
        lines.append((made + line[at:]).replace(" \n", "\n").replace("\n ", "\n"))  # only steps bring line ends
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() if told else answer


def _source(sentence: str, passages: Sequence[Passage]) -> list[str]:
    """What of the one passage that supports `sentence` does so together, in order; nothing if none does.

    The label may lend words, as it does to a citation, but at least half as many must stand in the text.
    """
    best = max(passages, key=lambda passage: overlap(sentence, passage.context))
    if overlap(sentence, best.context) < LEAST_OVERLAP or sentence.endswith(("?", "？")):
        return []
    parts, mine = _parts(best.text), words(sentence)
    left, picked = list(parts), [best.label]
    lacking, held = mine, 0.0
    while overlap(sentence, "\n".join(picked)) < LEAST_OVERLAP or held < LEAST_OVERLAP / 2:
        nearest = max(left, key=lambda part: len(words(part) & lacking), default="")
        if len(picked) > _QUOTED or not words(nearest) & lacking:
            return []
        picked.append(nearest)
        left.remove(nearest)
        lacking -= words(nearest)
        held = 1 - len(lacking) / len(mine)
    return [part for part in parts if part in picked[1:]]


def _parts(text: str) -> list[str]:
    """The sentences of a passage; numbered steps are one part, a paragraph of its own."""
    parts: list[str] = []
    lines = filter(None, map(str.strip, text.splitlines()))
    for steps, run in itertools.groupby(lines, key=lambda line: bool(_STEP.match(line))):
        told = "\n".join(run)
        parts += [f"\n{told}\n\n"] if steps else sentences(told)
    return parts


def supporting(answer: str, search: Search) -> Passage | None:
    """The found passage that supports the answer's first sentence after its courtesies, where the fact stands."""
    claim = _claim(answer)
    scored = [(overlap(claim, found.passage.context), -i) for i, found in enumerate(search.found)]
    best, position = max(scored, default=(0.0, 0))
    return search.found[-position].passage if best >= LEAST_OVERLAP else None


def _claim(answer: str) -> str:
    """The first sentence after the courtesies."""
    return next(iter(sentences(core(answer))), answer)
