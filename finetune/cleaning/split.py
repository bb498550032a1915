"""Training and validation apart: by time, whole groups of near duplicates, and a check that fails the run."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from assistant.prompt import Message
from finetune.cleaning.duplicates import TWIN, answered, asked, candidates, connected, plain, similarity
from finetune.turns import Turn
from retrieval.errors import InputError


class LeakError(InputError):
    """What was held out for evaluation stands in the training set too."""


@dataclass(frozen=True)
class HeldOut:
    """A question that is evaluated on, or a turn that is validated on."""

    place: str
    """The id of a case, or file:line."""
    question: str
    """`plain`, as `duplicates.asked` makes it."""
    answer: str | None = None
    """`plain`; None where training may know the answer, only not the question."""

    @classmethod
    def case(cls, place: str, question: str) -> "HeldOut":
        return cls(place, plain(question))

    @classmethod
    def conversation(cls, place: str, messages: Sequence[Message]) -> "HeldOut":
        """A conversation, of which the customer's last message is asked."""
        last = max(i for i, message in enumerate(messages) if message.role == "user")
        return cls(place, asked(Turn(tuple(messages[: last + 1]), Message("assistant", ""), place)))

    @classmethod
    def turn(cls, turn: Turn) -> "HeldOut":
        return cls(turn.place, asked(turn), answered(turn))


@dataclass(frozen=True)
class Leak:
    turn: int
    """Position of the training turn."""
    place: str
    """Of that turn."""
    held_out: str
    """Place of what it repeats."""
    similarity: float
    """Of the questions, 0 to 1; 1 where the answers are the same."""


@dataclass(frozen=True)
class Split:
    training: list[Turn]
    validation: list[Turn]


def split(turns: Sequence[Turn], groups: Sequence[int], validation_share: float, most: int, seed: int) -> Split:
    """Put up to `validation_share` (0 to 1) of the turns, and at most `most`, aside; both parts in the order given.

    Whole `groups` (a number for each turn) stay on one side, and so do turns of one conversation and turns with one
    answer. The groups that began last are validated on, as serving meets what came after training; where a time is
    unknown, random ones by `seed`. A group that does not fit stays in training. No order of `turns` changes it.
    """
    first: dict[tuple[str, object], int] = {}
    pairs = [
        (first.setdefault(key, i), i)
        for i, turn in enumerate(turns)
        for key in (("group", groups[i]), ("place", turn.place), ("answer", answered(turn)))
    ]
    blocks: dict[int, list[int]] = {}
    for i, name in enumerate(connected(len(turns), pairs)):
        blocks.setdefault(name, []).append(i)
    ordered = sorted(blocks.values(), key=lambda block: min((turns[i].place, asked(turns[i])) for i in block))
    random.Random(seed).shuffle(ordered)
    if all(turn.at for turn in turns):
        ordered.sort(key=lambda block: -min(turn.at.timestamp() for i in block if (turn := turns[i]).at))
    wanted = min(most, round(validation_share * len(turns)), len(turns) - 1)
    validation: set[int] = set()
    for block in ordered:
        if len(validation) + len(block) <= wanted:
            validation.update(block)
    return Split([turn for i, turn in enumerate(turns) if i not in validation], [turns[i] for i in sorted(validation)])


def leaks(training: Sequence[Turn], held_out: Sequence[HeldOut]) -> list[Leak]:
    """The training turns that repeat something held out: a question at least `TWIN` alike, or its very answer."""
    mine = [asked(turn) for turn in training]
    alike = candidates(mine, [held.question for held in held_out], TWIN)
    by_answer = {held.answer: held for held in held_out if held.answer}
    found = []
    for i, (turn, question, at) in enumerate(zip(training, mine, alike, strict=True)):
        near = max(((similarity(question, held_out[j].question), held_out[j].place) for j in at), default=(0.0, ""))
        same = by_answer.get(answered(turn)) if by_answer else None
        if same or near[0] >= TWIN:
            found.append(Leak(i, turn.place, *((same.place, 1.0) if same else (near[1], round(near[0], 2)))))
    return found


def without_twins(turns: Sequence[Turn], held_out: Sequence[HeldOut]) -> list[Turn]:
    """The turns but those of conversations that repeat something held out; what is left passes `check_leaks`."""
    repeated = {leak.place for leak in leaks(turns, held_out)}
    return [turn for turn in turns if turn.place not in repeated]


def check_leaks(training: Sequence[Turn], held_out: Sequence[HeldOut]) -> None:
    """Refuse a training set that repeats what is held out.

    Raises:
        LeakError: It does; the message names the two places that are most alike, and how many there are.
    """
    found = leaks(training, held_out)
    if found:
        worst = max(found, key=lambda leak: (leak.similarity, leak.place))
        raise LeakError(
            f"{len(found)} training answers repeat what is held out for evaluation: {worst.place} is "
            f"{worst.similarity:.2f} like {worst.held_out} (limit {TWIN}); take one of the two out"
        )
