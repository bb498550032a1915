"""The one prompt: instructions, conversation and passages become messages here and nowhere else.

Serving, training and evaluation call `build`. The instructions come first and never change between
requests, so that the engine's prefix cache keeps them; passages stand in the last user turn.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from retrieval.files import content_id
from retrieval.index import Query
from retrieval.passages import Passage

Role = Literal["system", "user", "assistant", "tool"]

INSTRUCTIONS = (
    "You are the customer support assistant of a payment company. Answer in the customer's language, directly "
    "and briefly. Take every fact from the passages and copy figures exactly. If the passages do not answer the "
    "question, or there are none, say so, give no figures, and offer a person."
)
HISTORY_TURNS = 6
"""Earlier messages that are kept."""
HISTORY_CHARACTERS = 1200
"""Characters of them that are kept, newest first."""
CONTEXT_CHARACTERS = 200
"""Of the question before, and of its answer, that a search takes into account: a long one would cost as much again."""
TEMPLATE_ARGUMENTS: dict[str, Any] = {"enable_thinking": False}
"""For chat templates that know it (Qwen3): answers without a thinking part."""


@dataclass(frozen=True)
class Message:
    role: Role
    content: str
    tool_calls: tuple[dict[str, Any], ...] = ()
    """As in the OpenAI API: `{"id", "type": "function", "function": {"name", "arguments"}}`."""
    tool_call_id: str | None = None
    """Of a tool's reply: the call that it answers."""
    reasoning: str = ""
    """What the model or agent thought before, without the `<think>` marks; never shown to a customer."""

    def as_dict(self) -> dict[str, Any]:
        """The message in the shape of the OpenAI API, reasoning left out."""
        shape: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            shape["tool_calls"] = list(self.tool_calls)
        if self.tool_call_id:
            shape["tool_call_id"] = self.tool_call_id
        return shape


@dataclass(frozen=True)
class Example:
    """A worked question for the model to go by."""

    passages: Sequence[tuple[str, str]]
    """Heading and text of each."""
    question: str
    answer: str


def build(
    conversation: Sequence[Message],
    passages: Sequence[Passage],
    instructions: str | None = None,
    examples: Sequence[Example] = (),
) -> list[Message]:
    """The messages for the model, which answers the customer's last one.

    Calls of tools and their replies may follow it; they stay where they are. `instructions` stand in place of ours, and
    `examples` before all that was said, so that the engine's prefix cache keeps them.
    """
    said = [message for message in conversation if message.role != "system"]
    last = max(i for i, message in enumerate(said) if message.role == "user")
    history, question, since = said[:last], said[last], said[last + 1 :]
    kept: list[Message] = []
    room = HISTORY_CHARACTERS
    for message in reversed(history[-HISTORY_TURNS:]):
        room -= len(message.content)
        if room < 0:
            break
        kept.insert(0, message)
    while kept and kept[0].role != "user":
        kept.pop(0)
    worked = (
        (_question(example.passages, example.question), Message("assistant", example.answer)) for example in examples
    )
    return [
        Message("system", instructions or INSTRUCTIONS),
        *(message for pair in worked for message in pair),
        *kept,
        _question([(passage.label, passage.text) for passage in passages], question.content),
        *since,
    ]


def tokens_id(tokens: Sequence[int]) -> str:
    """12 hex digits that name a sequence of token ids, order included."""
    return content_id(*map(str, tokens))


def tokens(
    tokenizer: Any, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), answered: bool = False
) -> list[int]:
    """Token ids of the prompt, up to and including the header of the answer, as the engine makes them.

    With `answered` the last message is the answer, and no header follows it.
    """
    ids: list[int] = tokenizer.apply_chat_template(
        [_for_template(message) for message in messages],
        tools=[_tool_for_template(tool) for tool in tools] or None,
        add_generation_prompt=not answered,
        tokenize=True,
        return_dict=False,
        **TEMPLATE_ARGUMENTS,
    )
    return ids


def _tool_for_template(tool: Mapping[str, Any]) -> dict[str, Any]:
    """As the engine hands it to the template: fields in its order, absent ones as null, others left out."""
    function = tool["function"]
    shape = {name: function.get(name) for name in ("name", "description", "parameters")}
    strict = {"strict": function["strict"]} if function.get("strict") is not None else {}
    return {"type": "function", "function": shape | strict}


def _for_template(message: Message) -> dict[str, Any]:
    """Chat templates take a call's arguments as an object, and the API as the JSON text of it."""
    shape = message.as_dict()
    for i, call in enumerate(message.tool_calls):
        function = dict(call["function"])
        if isinstance(function.get("arguments"), str):
            function["arguments"] = json.loads(function["arguments"] or "{}")
        shape["tool_calls"][i] = {**call, "function": function}
    return shape


def search_query(conversation: Sequence[Message]) -> Query:
    """What to search for: the last question; and it again after what was said just before, if anything was."""
    asked = [i for i, message in enumerate(conversation) if message.role == "user"]
    question = conversation[asked[-1]].content
    if len(asked) == 1:
        return Query(question)
    before, *answers = conversation[asked[-2] : asked[-1]]
    said = " ".join(message.content for message in answers if message.role == "assistant")[:CONTEXT_CHARACTERS]
    return Query(question, f"{before.content[:CONTEXT_CHARACTERS]} {said} {question}")


def _question(passages: Sequence[tuple[str, str]], question: str) -> Message:
    numbered = "\n\n".join(f"[{n}] {heading}\n{text}" for n, (heading, text) in enumerate(passages, 1))
    return Message("user", f"Passages:{chr(10) if passages else ' none'}{numbered}\n\nQuestion: {question}")


def _id() -> str:
    """The prompt's name: the content id of an example that goes through every part of it."""
    passage = Passage("id", "path", "article", "title", "heading", "text", "en", 0, 1, "line 1")
    turn = Message("user", "x" * (HISTORY_CHARACTERS // HISTORY_TURNS))
    reply = Message("assistant", turn.content)
    examples = [*build([turn, reply] * (HISTORY_TURNS + 1) + [turn], [passage, passage]), *build([turn], [])]
    return content_id(str([message.as_dict() for message in examples]), str(TEMPLATE_ARGUMENTS))


ID = _id()
"""Names this prompt; an adapter records the one it was trained with."""
