"""What an arm answered to a case, and what it took: one line of `answers.jsonl`."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from retrieval.errors import InputError


@dataclass(frozen=True)
class Shown:
    """A passage that stood in the prompt."""

    path: str
    heading: str
    text: str


@dataclass(frozen=True)
class Cost:
    """What an answer took. Seconds; None where it was not measured."""

    first_s: float | None
    """Time to the first token (TTFT); of a whole text, to its end."""
    total_s: float
    between_s: float | None
    """Mean time between tokens (ITL)."""
    prompt_tokens: int
    completion_tokens: int
    cpu_s: float | None = None
    """Of service and engine, an equal part of what the answers asked at once took."""
    run: str = ""
    """In which it was asked: of different runs costs cannot be compared, since the machine may have been busier."""


@dataclass(frozen=True)
class Answer:
    case: str
    """Id of the case."""
    arm: str
    """`rag+lora`, or with a prompt of its own `rag@three-examples`."""
    text: str
    """As the customer got it, citation markers included; personal data removed."""
    route: str
    citations: tuple[dict[str, Any], ...] = ()
    """As the chat service gives them."""
    passages: tuple[Shown, ...] = ()
    leaked: tuple[str, ...] = ()
    """Kinds of personal data that were removed: the model had written them."""
    cost: Cost = Cost(None, 0.0, None, 0, 0)
    extension: dict[str, Any] = field(default_factory=dict)
    """The service's whole account of the answer: release, adapter, unsupported figures, …"""


def written(answers: Iterable[Answer]) -> str:
    """Answers as JSON lines."""
    return "".join(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)


def read_answers(path: Path) -> Iterator[Answer]:
    """The answers of a file; a last line that was cut off by a crash is left out.

    Raises:
        InputError: Another line is no answer.
    """
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            value = json.loads(line)
            yield Answer(
                **value
                | {
                    "citations": tuple(value["citations"]),
                    "leaked": tuple(value["leaked"]),
                    "passages": tuple(Shown(**shown) for shown in value["passages"]),
                    "cost": Cost(**value["cost"]),
                }
            )
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path}:{number} is no answer: {error}; delete the line to have it asked again") from None
