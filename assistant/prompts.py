"""Ways to ask the model besides the plain prompt: other instructions, worked examples. `prompts.yaml` holds ours.

They are for the base without an adapter, whose best prompt is not the one that adapters are trained with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from assistant import prompt
from assistant.prompt import INSTRUCTIONS, Example
from retrieval.errors import InputError
from retrieval.files import content_id
from retrieval.language import Language

SHIPPED = Path(__file__).parent / "prompts.yaml"


class _Passage(BaseModel):
    model_config = ConfigDict(extra="forbid")
    heading: str
    text: str


class _Example(BaseModel):
    model_config = ConfigDict(extra="forbid")
    question: str
    answer: str
    passages: tuple[_Passage, ...] = ()


class _Prompt(BaseModel):
    model_config = ConfigDict(extra="forbid")
    instructions: str = INSTRUCTIONS
    examples: dict[Language, tuple[_Example, ...]] = {}


@dataclass(frozen=True)
class Prompt:
    id: str
    """Names what it says; recorded with each answer."""
    instructions: str
    examples: Mapping[Language, tuple[Example, ...]]


PLAIN = Prompt(prompt.ID, INSTRUCTIONS, {})
"""What adapters are trained with."""


def read_prompts(path: Path | None = None) -> dict[str, Prompt]:
    """By name: `plain`, the shipped ones, and those of `path`.

    Raises:
        InputError: The file cannot be read, or an entry of it is not what it should be.
    """
    named = _read(SHIPPED) | (_read(path) if path else {})
    return {"plain": PLAIN} | {name: _prompt(entry) for name, entry in named.items()}


def _prompt(entry: _Prompt) -> Prompt:
    examples = {
        language: tuple(
            Example([(passage.heading, passage.text) for passage in each.passages], each.question, each.answer)
            for each in given
        )
        for language, given in entry.examples.items()
    }
    return Prompt(content_id(prompt.ID, entry.model_dump_json()), entry.instructions, examples)


def _read(path: Path) -> dict[str, _Prompt]:
    try:
        loaded: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"prompts {path} cannot be read: {' '.join(str(error).split())}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise InputError(f"prompts {path} is not a mapping of names to prompts; see {SHIPPED} for the form")
    found = {}
    for name, entry in loaded.items():
        if name == "plain" or "@" in str(name) or ":" in str(name):
            raise InputError(f"prompts {path} entry {name!r}: the name is taken, or has a `:` or `@` in it")
        try:
            found[str(name)] = _Prompt.model_validate(entry)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in (name, *first["loc"]))
            raise InputError(f"prompts {path} entry {place!r}: {first['msg']}; see {SHIPPED} for the form") from None
    return found
