"""`nightly.yaml`: where a night's data are, and what it takes to be promoted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from assistant.experiment import Bound, Guardrail
from retrieval.errors import InputError


class Canary(BaseModel):
    """How the challenger is tried on customers; without a share it is not."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(default=0, ge=0, lt=1)
    hours: float = Field(default=0, ge=0, allow_inf_nan=False)
    guardrails: dict[Guardrail, Bound] = {}

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if bool(self.share) != bool(self.hours):
            raise ValueError(f"a share of {self.share:g} for {self.hours:g} hours is no trial; set both, or neither")
        return self


class Plan(BaseModel):
    """Paths are relative to the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    knowledge: tuple[Path, ...] = Field((), description="Articles, indexed anew when they changed; none: as they are.")
    exclude: tuple[str, ...] = Field((), description="Files and folders of them to leave out.")
    logs: tuple[Path, ...] = Field((), description="Folders and files of support logs, beside the transcripts.")
    columns: Path | None = Field(None, description="What the columns of ticket exports hold.")
    cases: tuple[Path, ...] = Field(description="Frozen cases that champion and challenger are asked.", min_length=1)
    golden: tuple[Path, ...] = Field((), description="Cases that every release must answer with all facts.")
    recipe: Path | None = Field(None, description="Of the training; by default ours, with replay.")
    gate: Path | None = Field(None, description="Rules of promotion; by default finetune/gate.yaml.")
    least_answers: int = Field(
        50, ge=1, description="Answers under which nothing is trained, new since the last try that did not go live."
    )
    held_out: bool = Field(True, description="Also ask what training held out: the newest answers.")
    measured: bool = Field(True, description="Measure forgetting and memorised secrets; rules may ask for it.")
    max_tokens: int | None = Field(None, ge=1, description="Longest answer to a case; by default the service's.")
    webhook: str | None = Field(
        None, description="Address that is told how the night ended, signed with ASSISTANT_WEBHOOK_SECRET."
    )
    textfile: Path | None = Field(None, description="File ending in .prom for node_exporter's textfile collector.")
    serving: Literal["beside", "stopped"] = Field(
        "beside",
        description="`stopped`: while the night trains and asks, the service's engine does not run and customers get "
        "passages quoted, for where one GPU, or memory, does not hold both.",
    )
    service: str | None = Field(
        None,
        description="Address of the running service, where the challenger is tried before it goes live; by default "
        "that of the settings, if it runs. An API key is taken from ASSISTANT_API_KEY: an administrator's.",
    )
    canary: Canary = Field(
        Canary(),
        description="`share` of the customers who get the challenger for `hours` before it goes live, and `guardrails` "
        "as those of an experiment, which end that; none by default.",
    )
    signature: bool = Field(False, description="A person has to approve: assistant release approve.")
    limit: int | None = Field(None, ge=1, description="Frozen cases asked at most, drawn with a fixed seed.")

    @field_validator("textfile")
    @classmethod
    def _is_read(cls, path: Path | None) -> Path | None:
        if path is not None and path.suffix != ".prom":
            raise ValueError(f"{path} is never read: node_exporter takes files that end in .prom; name it so")
        return path

    @model_validator(mode="before")
    @classmethod
    def _known(cls, fields: Any) -> Any:
        return fields if fields is not None else {}


def read_plan(path: Path) -> Plan:
    """
    Raises:
        InputError: The file is missing, is not YAML, or a field is not what it should be.
    """
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
        plan = Plan.model_validate(fields)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"the plan {path} cannot be read: {reason}; write one such as\n"
            "  knowledge: [knowledge]\n  logs: [logs]\n  cases: [cases.jsonl]"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"the plan {path} field {name!r}: {first['msg']}; fields: {', '.join(Plan.model_fields)}"
        ) from None

    def beside(paths: Sequence[Path]) -> tuple[Path, ...]:
        return tuple(path.parent / each for each in paths)

    return plan.model_copy(
        update={
            **{name: beside(getattr(plan, name)) for name in ("knowledge", "logs", "cases", "golden")},
            **{
                name: path.parent / found
                for name in ("columns", "recipe", "gate", "textfile")
                if (found := getattr(plan, name)) is not None
            },
        }
    )
