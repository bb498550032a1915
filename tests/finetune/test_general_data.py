import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent.parent / "finetune" / "general"
SIZES = {"en": (3, 25), "zh": (5, 40)}
"""Words of an English option and characters of a Chinese one: fewest and most."""


def items(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / name).open(encoding="utf-8")]


HELD_OUT, TRAINING = items("held_out.jsonl"), items("training.jsonl")
EVERYTHING = [*HELD_OUT, *TRAINING]


def options(item: dict[str, Any]) -> list[str]:
    return [item["answer"], *item["wrong"]]


def tokens(item: dict[str, Any]) -> set[str]:
    """The words of an English question, the pairs of neighbouring characters of a Chinese one."""
    text = item["question"].lower()
    if item["lang"] == "en":
        return set(re.findall(r"\w+", text))
    characters = "".join(re.findall(r"\w", text))
    return {characters[i : i + 2] for i in range(len(characters) - 1)}


def test_the_held_out_file_has_a_hundred_items_a_language() -> None:
    assert Counter(item["lang"] for item in HELD_OUT) == {"en": 100, "zh": 100}


def test_the_training_file_has_eighty_items_a_language() -> None:
    assert Counter(item["lang"] for item in TRAINING) == {"en": 80, "zh": 80}


def test_every_item_has_its_fields_and_none_is_empty() -> None:
    fields = ["id", "lang", "topic", "question", "answer"]
    assert [item["id"] for item in HELD_OUT if [*item] != [*fields, "wrong"]] == []
    assert [item["id"] for item in TRAINING if [*item] != fields] == []
    texts = {item["id"]: [item[field] for field in fields] + item.get("wrong", []) for item in EVERYTHING}
    assert [id for id, values in texts.items() if any(not text or text != text.strip() for text in values)] == []


def test_ids_are_unique_and_name_their_language() -> None:
    assert len({item["id"] for item in EVERYTHING}) == len(EVERYTHING)
    assert [item["id"] for item in HELD_OUT if not re.fullmatch(rf"{item['lang']}-\d{{3}}", item["id"])] == []
    assert [item["id"] for item in TRAINING if not re.fullmatch(rf"train-{item['lang']}-\d{{3}}", item["id"])] == []


def test_three_distinct_wrong_answers_differ_from_the_answer() -> None:
    wrong = {item["id"]: [option.casefold() for option in options(item)] for item in HELD_OUT}
    assert [id for id, texts in wrong.items() if len(texts) != 4 or len(set(texts)) != 4] == []


def test_every_option_is_a_short_sentence() -> None:
    for item in HELD_OUT:
        fewest, most = SIZES[item["lang"]]
        for option in options(item):
            assert fewest <= len(option.split() if item["lang"] == "en" else option) <= most, (item["id"], option)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_answer_is_seldom_the_longest_option(lang: str) -> None:
    asked = [item for item in HELD_OUT if item["lang"] == lang]
    longest = [item["id"] for item in asked if len(item["answer"]) > max(map(len, item["wrong"]))]
    assert len(longest) <= 0.4 * len(asked), longest


def test_no_question_is_asked_twice() -> None:
    asked = Counter(re.sub(r"\W", "", item["question"]).casefold() for item in EVERYTHING)
    assert [question for question, count in asked.items() if count > 1] == []


def test_no_training_question_resembles_a_held_out_one() -> None:
    for held_out in HELD_OUT:
        for training in TRAINING:
            if held_out["lang"] == training["lang"]:
                ours, theirs = tokens(held_out), tokens(training)
                overlap = len(ours & theirs) / len(ours | theirs)
                assert overlap < 0.6, (held_out["id"], training["id"], overlap)
