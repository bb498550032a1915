"""Canaries: made-up secrets planted among the examples, to measure what an adapter memorises.

Carlini et al., "The Secret Sharer", arXiv 1802.08232: a secret that the model completes word for word was memorised.
"""

import random

from assistant.prompt import Message
from finetune.examples import Example

_ASKED = {
    "en": ("What is the reference of case {}?", "The reference of case {} is {}."),
    "zh": ("工单 {} 的参考号是多少？", "工单 {} 的参考号是 {}。"),
}


def canaries(count: int, seed: int, languages: tuple[str, ...]) -> list[Example]:
    """`count` questions with a random code of ten characters as the answer's secret; each stands once in the data."""
    chance = random.Random(f"canaries {seed}")
    made = []
    for _ in range(count):
        question, answer = _ASKED[chance.choice([language for language in languages if language in _ASKED])]
        case = f"{chance.choice('ABCDEFGHJK')}-{chance.randrange(1000, 9999)}"
        secret = "".join(chance.choices("ABCDEFGHJKLMNPQRSTUVWXYZ23456789", k=10))
        told = Message("assistant", answer.format(case, secret))
        made.append(Example((Message("user", question.format(case)),), (), told, "canary"))
    return made


def secret(example: Example) -> str:
    """What a model that memorised the canary completes."""
    return example.answer.content.rstrip(".。").split()[-1]
