"""The recipe of a training run: a YAML file, or the defaults."""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retrieval.errors import InputError


class Recipe(BaseModel):
    """What a training run does. Every field may stand in the recipe file; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    quantize: Literal["nf4", "none"] = Field("nf4", description="Number format of the frozen base.")
    rank: int = Field(16, ge=1, le=256, description="Rank of the adapter.")
    alpha: float = Field(32, gt=0, description="Scale of the adapter: alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input; it halves the speed on a CPU.")
    learning_rate: float = Field(1e-3, gt=0, description="Peak, after a linear warm-up, before a linear decay.")
    warmup_share: float = Field(0.05, ge=0, lt=1, description="Share of the run that warms up.")
    epochs: float = Field(3, gt=0, description="Passes over the examples, unless max_steps or minutes end it.")
    batch_size: int = Field(2, ge=1, description="Examples in one optimiser step.")
    micro_batch: int = Field(2, ge=1, description="Examples computed at once; memory grows with it.")
    max_tokens: int = Field(1024, ge=128, description="Longest example; longer ones are left out and counted.")
    max_examples: int | None = Field(None, ge=1, description="Answers drawn from the logs at most; None takes all.")
    max_steps: int | None = Field(None, ge=1, description="Optimiser steps at most.")
    minutes: float | None = Field(
        None, gt=0, description="Minutes of optimisation at most; the schedule ends with them."
    )
    distractors_share: float = Field(
        0.03, ge=0, le=1, description="Examples whose passages do not answer: the answer says so."
    )
    none_share: float = Field(
        0.03, ge=0, le=1, description="Examples without any passage: the answer says that there is none."
    )
    gradient_checkpointing: bool = Field(False, description="Trade time for memory; for large bases on a GPU.")
    seed: int = 7


def read_recipe(path: Path | None, **overrides: object) -> Recipe:
    """The recipe in a YAML file, or the defaults, with `overrides` that are not None on top.

    Raises:
        InputError: The file is missing, is not YAML, or holds a field or value that no recipe has.
    """
    fields: dict[str, object] = {}
    if path is not None:
        try:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"recipe {path} cannot be read: {reason}") from error
        if not isinstance(loaded, dict | None):
            raise InputError(f"recipe {path} must be a mapping of fields to values, such as 'rank: 16'")
        fields = loaded or {}
    fields |= {name: value for name, value in overrides.items() if value is not None}
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        known = f"; known fields: {', '.join(Recipe.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise InputError(f"recipe {path or ''} field {name!r}: {first['msg']}{known}") from None
