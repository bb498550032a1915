from pathlib import Path

import pytest

from assistant import prompt
from assistant.prompt import Message, build
from assistant.prompts import PLAIN, read_prompts
from retrieval.errors import InputError

EXAMPLE = "two: {examples: {en: [{question: Why, answer: So., passages: [{heading: Reasons, text: So it is.}]}]}}"


def test_the_plain_prompt_is_what_adapters_are_trained_with() -> None:
    plain = read_prompts()["plain"]
    assert plain == PLAIN
    asked = [Message("user", "Why?")]
    assert build(asked, [], plain.instructions, plain.examples.get("en", ())) == build(asked, [])
    assert plain.id == prompt.ID


def test_every_shipped_prompt_has_another_id_and_examples_in_both_languages() -> None:
    prompts = read_prompts()
    assert list(prompts) == ["plain", "short", "one-example", "three-examples"]
    assert len({each.id for each in prompts.values()}) == 4
    for each in prompts.values():
        assert len(each.examples.get("en", ())) == len(each.examples.get("zh", ()))


def test_examples_stand_between_the_instructions_and_what_was_said(tmp_path: Path) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text(EXAMPLE)
    two = read_prompts(path)["two"]
    messages = build([Message("user", "Who?")], [], two.instructions, two.examples["en"])
    assert [(message.role, message.content) for message in messages[1:]] == [
        ("user", "Passages:\n[1] Reasons\nSo it is.\n\nQuestion: Why"),
        ("assistant", "So."),
        ("user", "Passages: none\n\nQuestion: Who?"),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("plain: {}", "entry 'plain': the name is taken"),
        ("a@b: {}", "entry 'a@b'.*`@`"),
        ("two: {examples: {en: [{question: Why}]}}", r"entry 'two.examples.en.0.answer'"),
        ("two: {instruction: x}", "entry 'two.instruction'"),
        ("[1]", "is not a mapping"),
        ("two: [", "cannot be read"),
    ],
)
def test_a_broken_file_is_named_with_the_entry(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"prompts.yaml {told}|{told}"):
        read_prompts(path)
