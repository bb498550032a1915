"""The columns of a ticket export: a YAML file that says what they hold, or their usual names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from finetune.logs.shape import quoted
from retrieval.errors import InputError

EXAMPLE = """question: subject            # a ticket a row: the customer's question
answer: agent_reply          # and the agent's answer
rating: csat

conversation: ticket_id      # or a message a row; the rows of a ticket follow one another
role: author_type
content: body
at: created_at
resolved: status
values:                      # what cells stand for
  role: {end-user: user, agent: assistant, note: skip}
  resolved: {solved: true, open: false}
"""
"""Both kinds of mapping; a file has one of them."""
_KNOWN: dict[str, tuple[str, ...]] = {
    "question": ("question", "customer_message", "query", "instruction", "问题", "客户问题"),
    "answer": ("answer", "reply", "agent_reply", "response", "output", "回答", "答案", "回复", "客服回复"),
    "conversation": ("conversation", "conversation_id", "ticket_id", "case_id", "session_id", "工单号", "会话id"),
    "role": ("role", "author_type", "sender_type", "sender", "from", "角色", "发送方"),
    "content": ("content", "body", "message", "text", "value", "内容", "消息", "消息内容"),
    "at": ("at", "created_at", "timestamp", "time", "date", "时间", "创建时间", "发送时间"),
    "customer": ("customer", "customer_id", "requester", "客户"),
    "agent": ("agent", "agent_id", "agent_name", "assignee", "客服", "坐席"),
    "rating": ("rating", "csat", "评分", "满意度"),
    "resolved": ("resolved", "是否解决"),
}
"""Names of columns that need no mapping."""


def _lower(value: object) -> object:
    return {str(key).strip().lower(): cell for key, cell in value.items()} if isinstance(value, dict) else value


def _column(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


_Name = Annotated[str | None, BeforeValidator(_column)]


class _Values(BaseModel):
    """What cells stand for; a cell that is not named here stands for itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Annotated[dict[str, Literal["user", "assistant", "system", "skip"]], BeforeValidator(_lower)] = {}
    rating: Annotated[dict[str, int | None], BeforeValidator(_lower)] = {}
    resolved: Annotated[dict[str, bool | None], BeforeValidator(_lower)] = {}


class Columns(BaseModel):
    """The columns of a ticket export: question and answer, or conversation, role and content; see `EXAMPLE`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: _Name = None
    answer: _Name = None
    conversation: _Name = None
    role: _Name = None
    content: _Name = None
    at: _Name = None
    customer: _Name = None
    agent: _Name = None
    rating: _Name = None
    resolved: _Name = None
    values: _Values = _Values()

    @property
    def complete(self) -> bool:
        """Whether these are the columns of exactly one of the two kinds of export."""
        single, grouped = (self.question, self.answer), (self.conversation, self.role, self.content)
        return (all(single) and not any(grouped)) or (all(grouped) and not any(single))


def read_columns(path: Path) -> Columns:
    """The mapping in a YAML file.

    Raises:
        InputError: The file cannot be read, or is no mapping of columns.
    """
    try:
        columns = Columns.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"column mapping {path} cannot be read: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise InputError(f"column mapping {path}: {where}: {first['msg']}; for instance\n{EXAMPLE}") from error
    if not columns.complete:
        raise InputError(
            f"column mapping {path} must name question and answer, or conversation, role and content; "
            f"for instance\n{EXAMPLE}"
        )
    return columns


def mapping_beside(path: Path) -> Path | None:
    """The mapping of a CSV file: `tickets.columns.yaml` beside `tickets.csv`, or `columns.yaml` for the folder."""
    own = path.with_name(f"{path.name.split('.')[0]}.columns.yaml")
    return next((found for found in (own, path.with_name("columns.yaml")) if found.is_file()), None)


def is_mapping(path: Path) -> bool:
    """Whether a file has the name of a mapping."""
    return path.name == "columns.yaml" or path.name.endswith(".columns.yaml")


def usable(columns: Columns | None, header: Sequence[str], name: str) -> Columns:
    """The columns of the table `name`: those given, or the usual names among the header's.

    Raises:
        InputError: The table lacks them; the message names those that it has.
    """
    if columns is None:
        usual = {part: next((column for column in known if column in header), None) for part, known in _KNOWN.items()}
        grouped = all(usual[part] for part in ("conversation", "role", "content"))
        left_out = ("question", "answer") if grouped else ("conversation", "role", "content")
        columns = Columns.model_validate(usual | dict.fromkeys(left_out))
    named = [column for part in _KNOWN if (column := getattr(columns, part))]
    lacking = [column for column in named if column not in header]
    if lacking or not columns.complete:
        why = f"has no column {quoted(lacking[0])}" if lacking else "names no columns of questions and answers"
        beside = f"{name.split('/')[-1].split('.')[0]}.columns.yaml"
        raise InputError(
            f"{name} {why}; it has {', '.join(map(quoted, header))}. Write which columns hold what into {beside} "
            f"beside it, for instance\n{EXAMPLE}"
        )
    return columns
