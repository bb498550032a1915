"""General questions, in Chinese and English: some to train on against forgetting, others to measure it on."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from assistant.prompt import Message
from finetune.examples import Example

FOLDER = Path(__file__).parent / "general"


@dataclass(frozen=True)
class GeneralQuestion:
    id: str
    lang: str
    question: str
    answer: str
    wrong: tuple[str, ...]
    """Three answers that are wrong; none of the questions to train on has any."""


@cache
def held_out() -> tuple[GeneralQuestion, ...]:
    """The 200 questions that forgetting is measured on: never trained on."""
    return _read("held_out.jsonl")


@cache
def instructions() -> tuple[GeneralQuestion, ...]:
    """The questions to train on."""
    return _read("training.jsonl")


def asked(question: GeneralQuestion, answer: str) -> Example:
    """The question with this answer, without the support prompt."""
    return Example((Message("user", question.question),), (), Message("assistant", answer), "general")


def _read(name: str) -> tuple[GeneralQuestion, ...]:
    lines = map(json.loads, (FOLDER / name).read_text(encoding="utf-8").splitlines())
    return tuple(
        GeneralQuestion(line["id"], line["lang"], line["question"], line["answer"], tuple(line.get("wrong", ())))
        for line in lines
    )
