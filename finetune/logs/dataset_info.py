"""Data sets of LLaMA-Factory: a folder whose `dataset_info.json` says which files it has and what their fields mean.

The format: https://github.com/hiyouga/LLaMA-Factory/blob/main/data/README.md
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from finetune.logs.conversations import BadLine
from finetune.logs.records import Record, shown
from finetune.logs.shape import quoted
from retrieval.errors import InputError

NAME = "dataset_info.json"


class _Columns(BaseModel):
    prompt: str = "instruction"
    query: str = "input"
    response: str = "output"
    history: str = "history"
    messages: str = "conversations"
    system: str = "system"
    tools: str = "tools"
    images: str | None = None
    videos: str | None = None
    audios: str | None = None
    kto_tag: str | None = None


class _Tags(BaseModel):
    role_tag: str = "from"
    content_tag: str = "value"
    user_tag: str = "human"
    assistant_tag: str = "gpt"
    observation_tag: str = "observation"
    function_tag: str = "function_call"
    system_tag: str = "system"


class Entry(BaseModel):
    """One data set; `num_samples` and what else is not named here is ignored."""

    file_name: str | None = None
    hf_hub_url: str | None = None
    ms_hub_url: str | None = None
    script_url: str | None = None
    cloud_file_name: str | None = None
    formatting: Literal["alpaca", "sharegpt", "openai"] = "alpaca"
    ranking: bool = False
    columns: _Columns = _Columns()
    tags: _Tags = _Tags()

    @property
    def obstacle(self) -> str | None:
        """Why this data set is not read."""
        for key in ("hf_hub_url", "ms_hub_url", "script_url", "cloud_file_name"):
            if getattr(self, key):
                return f"{key}: only files are read; download it and name it by file_name"
        if self.ranking or self.columns.kto_tag:
            return "ranking or kto_tag: only conversations and answers are learned from, no preferences"
        if self.columns.images or self.columns.videos or self.columns.audios:
            return "images, videos or audios: only text is learned from"
        return None if self.file_name else "no file_name"


@dataclass(frozen=True)
class Datasets:
    files: tuple[tuple[Path, Entry], ...]
    skipped: tuple[BadLine, ...]
    """Data sets that are not read, and files of the folder that belong to none."""


def datasets(folder: Path, suffixes: tuple[str, ...]) -> Datasets:
    """The files that the folder's `dataset_info.json` describes.

    Raises:
        InputError: It cannot be read, names a file that does not exist, or has no data set that can be read.
    """
    path = folder / NAME
    try:
        described = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(described, dict):
        raise InputError(f"{path} must be an object of data sets, such as {{'tickets': {{'file_name': 'a.json'}}}}")
    files: list[tuple[Path, Entry]] = []
    skipped: list[BadLine] = []
    for name, description in described.items():
        place = f"{path}#{name}"
        try:
            entry = Entry.model_validate(description)
            reason = entry.obstacle
        except ValidationError as error:
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc'])) or 'entry'}: {first['msg']}"
        if reason:
            skipped.append(_unread(place, reason, shown(json.dumps(description, ensure_ascii=False))))
            continue
        for file in _files(folder / str(entry.file_name), place):
            if file.name.endswith(suffixes):
                files.append((file, entry))
            else:
                skipped.append(_unread(str(file), "not read; save it as JSON, JSONL or CSV"))
    if not files:
        why = f"{skipped[0].place}: {skipped[0].reason}" if skipped else "it is empty"
        raise InputError(f"{path} has no data set that can be read; {why}")
    named = {file.resolve() for file, _ in files} | {path.resolve()}
    for file in sorted(folder.iterdir()):
        if file.name.endswith(suffixes) and file.resolve() not in named:
            skipped.append(_unread(str(file), f"no data set in {NAME} that is read has this file; add one"))
    return Datasets(tuple(files), tuple(skipped))


def _unread(place: str, reason: str, text: str = "") -> BadLine:
    return BadLine(place, reason, text, 0, "file")


def aligned(record: Record, entry: Entry) -> Record | BadLine:
    """The record with the usual names for its fields and roles instead of those that the entry says it has."""
    if not isinstance(record.value, dict):
        return record
    columns = entry.columns
    if entry.formatting == "alpaca":
        names = {
            columns.prompt: "instruction",
            columns.query: "input",
            columns.response: "output",
            columns.history: "history",
        }
        needed = columns.prompt
    else:
        names = {columns.messages: "messages"}
        needed = columns.messages
    names |= {columns.system: "system", columns.tools: "tools"}
    if needed not in record.value:
        reason = f"no field {quoted(needed)}, which {NAME} names; it has {quoted(', '.join(record.value) or 'nothing')}"
        return BadLine(record.place, reason, record.text)
    taken = {"messages", "conversations", "instruction"}
    value = {name: field for name, field in record.value.items() if name not in names and name not in taken}
    value |= {usual: record.value[name] for name, usual in names.items() if name in record.value}
    if isinstance(value.get("messages"), list):
        value["messages"] = [_message(message, entry.tags) for message in value["messages"]]
    return Record(record.place, value, record.text)


def _message(message: Any, tags: _Tags) -> Any:
    if not isinstance(message, dict) or not {tags.role_tag, tags.content_tag} & message.keys():
        return message
    roles = {
        tags.user_tag: "user",
        tags.assistant_tag: "assistant",
        tags.observation_tag: "tool",
        tags.function_tag: "function_call",
        tags.system_tag: "system",
    }
    rest = {key: field for key, field in message.items() if key not in (tags.role_tag, tags.content_tag)}
    role = message.get(tags.role_tag)
    # What has its calls beside it is no call by its content.
    known = "assistant" if message.get("tool_calls") and role in (tags.assistant_tag, tags.function_tag) else None
    known = known or (roles.get(role, role) if isinstance(role, str) else role)
    return {**rest, "role": known, "content": message.get(tags.content_tag)}


def _files(path: Path, place: str) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    if path.is_file():
        return [path]
    raise InputError(f"{place}: file {path} does not exist; put it there or take the data set out")
