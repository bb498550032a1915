"""The recipe of a training run: a YAML file, or the defaults."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from retrieval.errors import InputError

LORA: dict[str, Any] = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "target_modules": "all-linear"}
"""The default adapter: Hu et al., "LoRA", arXiv 2106.09685; on all linear layers: Dettmers et al., "QLoRA", arXiv
2305.14314. Dropout halves the speed on a CPU."""


class Recipe(BaseModel):
    """What a training run does. Every field may stand in the recipe file; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    quantize: Literal["nf4", "none"] = Field(
        "nf4", description="Number format of the frozen base: NF4 with double quantisation, or bf16."
    )
    peft: dict[str, Any] | None = Field(
        LORA,
        description="Fields of peft's config class, `peft_type` among them (default LORA); those of LoRA that are not "
        "given keep their defaults here. `null` trains every weight of the model, which needs quantize: none.",
    )
    continue_from: str | None = Field(
        None, description="Name of the adapter whose weights the run starts with, or `live` for the one that serves."
    )
    learning_rate: float = Field(1e-3, gt=0, description="Peak, after a linear warm-up.")
    schedule: Literal["linear", "cosine", "constant"] = Field("linear", description="How the rate falls from its peak.")
    warmup_share: float = Field(0.05, ge=0, lt=1, description="Share of the run that warms up.")
    epochs: float = Field(
        3, gt=0, allow_inf_nan=False, description="Passes over the examples, unless max_steps or minutes end it."
    )
    max_steps: int | None = Field(None, ge=1, description="Optimiser steps at most.")
    minutes: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Minutes of optimisation at most; the schedule ends with them."
    )
    batch_size: int = Field(2, ge=1, description="Examples in one optimiser step, over all processes.")
    micro_batch: int = Field(2, ge=1, description="Examples computed at once; halved when memory runs out.")
    max_tokens: int = Field(
        1024, ge=128, description="Longest example; of longer ones the oldest turns are cut, or they are left out."
    )
    gradient_checkpointing: bool = Field(False, description="Trade time for memory; for large bases on a GPU.")
    liger: bool = Field(
        False, description="Liger's kernels for norms, rotations and gates, on a GPU; needs `pip install liger-kernel`."
    )
    validations: int = Field(4, ge=1, description="How often the loss on held-out examples is measured in a run.")
    patience: int = Field(
        2, ge=1, description="Validations in a row, worse beyond chance than the best, that end the run."
    )
    validation_share: float = Field(0.05, ge=0, lt=1, description="Answers held out for it: the newest.")
    validation_most: int = Field(24, ge=0, description="Held-out answers at most.")
    checkpoint_minutes: float = Field(2, ge=0, description="Minutes between checkpoints to resume from.")
    trackers: tuple[str, ...] = Field(
        (), description="Further trackers beside TensorBoard, as accelerate names them: wandb, mlflow, …"
    )
    max_examples: int | None = Field(None, ge=1, description="Answers drawn from the logs at most; None takes all.")
    distractors_share: float = Field(
        0.03, ge=0, le=1, description="Examples whose passages do not answer: the answer says so."
    )
    none_share: float = Field(
        0.03, ge=0, le=1, description="Examples without any passage: the answer says that there is none."
    )
    answers: Literal["logged", "quoted"] = Field(
        "quoted",
        description="Answers learned as agents wrote them, or with each sentence that a passage supports in that "
        "passage's own words; corrections always as they were written.",
    )
    general_share: float = Field(
        0.05, ge=0, lt=1, description="Examples of general instructions, against forgetting; share of all."
    )
    reading_share: float = Field(
        0.0, ge=0, lt=1, description="Examples of other trades' articles, to learn to read on; share of all."
    )
    replay_share: float = Field(
        0.0, ge=0, lt=1, description="Examples from the logs of earlier runs, against forgetting; share of all."
    )
    topic_share: float = Field(1.0, gt=0, le=1, description="Share of the examples that one topic may have.")
    paraphrases: bool = Field(False, description="Add each question once more in another wording, by templates.")
    canaries: int = Field(
        8, ge=0, description="Made-up secrets planted among the examples, to measure what the adapter memorises."
    )
    seed: int = 7

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.peft is None and self.quantize != "none":
            raise ValueError("peft: null trains every weight, which quantize: nf4 forbids; set quantize: none")
        if self.peft is None and self.continue_from:
            raise ValueError("continue_from names an adapter, and peft: null trains none")
        fields = self.peft_fields or {}
        for rank in (fields.get("r", 1), *(fields.get("rank_pattern") or {}).values()):
            if not isinstance(rank, int) or rank < 1:
                raise ValueError(f"peft.r, or a rank of rank_pattern, is {rank!r}; give a whole number of at least 1")
        if self.distractors_share + self.none_share > 1:
            raise ValueError("distractors_share and none_share are parts of the same examples; together they exceed 1")
        return self

    @property
    def peft_fields(self) -> dict[str, Any] | None:
        """What peft's config class is given, `peft_type` included; None for full fine-tuning."""
        if self.peft is None:
            return None
        kind = str(self.peft.get("peft_type", "LORA")).upper()
        return (LORA if kind == "LORA" else {}) | self.peft | {"peft_type": kind}


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
            raise InputError(f"recipe {path} must be a mapping of fields to values, such as 'epochs: 3'")
        fields = loaded or {}
    fields |= {name: value for name, value in overrides.items() if value is not None}
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        known = f"; known fields: {', '.join(Recipe.model_fields)}" if first["type"] == "extra_forbidden" else ""
        place = f"recipe {path}" if path else "recipe"
        raise InputError(f"{place}{f' field {name!r}' if name else ''}: {first['msg']}{known}") from None
