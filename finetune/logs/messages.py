"""The messages of a logged conversation: roles, parts, tool calls and reasoning as the formats write them."""

import json
import re
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, StringConstraints, model_validator

from assistant.prompt import Message, Role
from finetune.logs.records import loads
from finetune.logs.shape import quoted

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
}
_THOUGHT = re.compile(r"\s*(?:<think>)?(.*?)</think>\s*", re.DOTALL)
"""Models whose template opens the mark write only its end."""


def _text(value: object) -> object:
    """The text of a message's content, which may be a list of parts."""
    if not isinstance(value, list):
        return value
    for part in value:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else part
            raise ValueError(f"a part of type {quoted(kind)}; only text is learned from")
    return "\n".join(part["text"] for part in value)


def _json(value: object) -> object:
    """Arguments of a call as the JSON text of an object; some files have them as an object.

    Raises:
        ValueError: They are none.
    """
    if isinstance(value, str):
        value = _loaded(value, '{"order": "A-1"}') if value.strip() else {}
    if not isinstance(value, dict):
        raise ValueError(f"arguments of a call that are no JSON object: {quoted(value)}")
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def declared_tools(value: object) -> object:
    """A list of tools in the shape of the OpenAI API; ShareGPT has it as JSON text, without the `function` around.

    Raises:
        ValueError: It is not JSON, or a tool has no name.
    """
    if isinstance(value, str):
        value = _loaded(value, '[{"name": …, "parameters": {…}}]') if value.strip() else []
    if not isinstance(value, list):
        return [] if value is None else value
    nested = [tool if isinstance(tool, dict) and "function" in tool else {"function": tool} for tool in value]
    for tool in nested:
        if not isinstance(tool["function"], dict) or not isinstance(tool["function"].get("name"), str):
            raise ValueError(f"a tool without a name: {quoted(tool['function'])}")
    return [{"type": "function", "function": tool["function"]} for tool in nested]


def _loaded(text: str, example: str) -> object:
    try:
        return loads(text)
    except ValueError as error:
        raise ValueError(f"{error}; it should be like {example}") from error


class _Function(BaseModel):
    name: Annotated[str, Field(min_length=1)]
    arguments: Annotated[str, BeforeValidator(_json)] = "{}"


class _Call(BaseModel):
    id: str | None = None
    function: _Function

    @model_validator(mode="before")
    @classmethod
    def _nested(cls, value: object) -> object:
        return {"function": value} if isinstance(value, dict) and "function" not in value else value


class LoggedMessage(BaseModel):
    role: Literal[
        "system", "user", "assistant", "tool", "developer", "human", "gpt", "function_call", "observation"
    ] = Field(validation_alias=AliasChoices("role", "from"))
    content: Annotated[str, StringConstraints(max_length=20_000)] = Field(
        validation_alias=AliasChoices("content", "value")
    )
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    reasoning: str | None = Field(None, validation_alias=AliasChoices("reasoning_content", "reasoning"))

    @model_validator(mode="before")
    @classmethod
    def _unfolded(cls, value: object) -> object:
        """Content and reasoning apart, parts of text joined, and a function call of ShareGPT among the calls."""
        if not isinstance(value, dict):
            return value
        role = value.get("role", value.get("from"))
        key = "content" if "content" in value else "value"
        content = _text(value.get(key))
        if content is None and value.get("tool_calls"):
            content = ""
        if content is None:
            return value
        value = {**value, key: content}
        if isinstance(role, str) and _ROLES.get(role) == "assistant" and isinstance(content, str):
            thought = _THOUGHT.match(content)
            if not thought and content.lstrip().startswith("<think>"):
                raise ValueError("<think> is not closed by </think>, so there is no answer")
            if thought:
                value["reasoning_content"] = value.get("reasoning_content") or thought[1].strip()
                value[key] = content[thought.end() :]
            if role == "function_call":
                calls = _loaded(value[key], '{"name": …, "arguments": {…}}')
                value |= {"tool_calls": calls if isinstance(calls, list) else [calls], key: ""}
        return value


def linked(logged: Iterable[LoggedMessage]) -> list[Message]:
    """The messages; calls without an id get one by their number, and replies that name no call answer in order."""
    messages: list[Message] = []
    waiting: list[str] = []
    number = 0
    for message in logged:
        role = _ROLES[message.role]
        calls = []
        for call in message.tool_calls or ():
            number += 1
            name = call.id or f"call_{number}"
            calls.append({"id": name, "type": "function", "function": call.function.model_dump()})
            waiting.append(name)
        answers = message.tool_call_id
        if role == "tool" and waiting:
            answers = answers or waiting[0]
            waiting = [name for name in waiting if name != answers]
        messages.append(Message(role, message.content, tuple(calls), answers, message.reasoning or ""))
    return messages
