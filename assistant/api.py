"""What the HTTP API takes and gives, as pydantic models: they check requests and describe the API in OpenAPI."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from assistant.chat import ARMS, Route
from assistant.citations import Citation
from assistant.prompt import Message

MOST_MESSAGES = 200
MOST_CHARACTERS = 20_000
"""Of one message."""
_Text = Annotated[str, Field(max_length=MOST_CHARACTERS)]
_Object = dict[str, Any]
_Stop = Annotated[str, Field(max_length=200)]


class TextPart(BaseModel):
    type: Literal["text"]
    text: _Text


class FunctionCall(BaseModel):
    name: Annotated[str, Field(max_length=200)]
    arguments: _Text = "{}"


class ToolCall(BaseModel):
    id: Annotated[str, Field(max_length=200)]
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: _Text | list[TextPart] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=64)] | None = None
    tool_call_id: Annotated[str, Field(max_length=200)] | None = None

    def plain(self) -> Message:
        parts = [part.text for part in self.content] if isinstance(self.content, list) else [self.content or ""]
        return Message(
            role="system" if self.role == "developer" else self.role,
            content="".join(parts),
            tool_calls=tuple(call.model_dump() for call in self.tool_calls or ()),
            tool_call_id=self.tool_call_id,
        )


class Conversation(BaseModel):
    model: str = Field("assistant", max_length=200, description=f"How to answer; one of: {', '.join(ARMS)}.")
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES)] = Field(
        description="The conversation; it ends with the customer's message, or with what tools replied after it. "
        "System messages are ignored: the assistant has its own."
    )


class Reference(Conversation):
    """An answer that somebody else gave."""

    answer: str = Field(min_length=1, max_length=20_000)


class Likelihood(BaseModel):
    log_probability: float | None = Field(description="Natural logarithm; null where no model would answer.")
    tokens: int = Field(description="Of the answer, the mark of its end among them.")


class ChatRequest(Conversation):
    """A chat completion request as OpenAI defines it; fields not named here are ignored."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "assistant",
                    "messages": [{"role": "user", "content": "How many days do I have to request a refund?"}],
                    "stream": False,
                }
            ]
        }
    )

    stream: bool = False
    stream_options: _Object | None = Field(None, description='`{"include_usage": true}` adds a last chunk with usage.')
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, description="0 by default.")
    top_p: float | None = Field(None, gt=0, le=1, description="1 by default.")
    n: int | None = Field(None, ge=1, le=4, description="Answers to write.")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=4)] | None = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: Annotated[list[_Object], Field(max_length=64)] | None = None
    tool_choice: Literal["none", "auto", "required"] | _Object | None = None
    response_format: _Object | None = Field(
        None, description="JSON, freely or by a schema; gets no markers. Fixed texts, as of a handoff, stay text."
    )
    user: Annotated[str, Field(max_length=200)] | None = Field(
        None, description="Your id of the customer; kept as a keyed hash, by which transcripts are deleted."
    )
    metadata: dict[str, Annotated[str, Field(max_length=512)]] | None = Field(
        None, description="`conversation`: your id of the conversation."
    )

    def passed(self) -> dict[str, Any]:
        """What the engine gets as it is."""
        names = "n frequency_penalty presence_penalty logprobs top_logprobs tools tool_choice response_format".split()
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class Passage(BaseModel):
    path: str
    heading: str
    start: int = Field(description="First character of it in the article's text.")
    end: int


class ExperimentArm(BaseModel):
    name: str
    arm: str


class Extension(BaseModel):
    """How a reply was made."""

    route: Route
    notice: str = Field(description="The same for the customer, a sentence in their language.")
    reason: str | None = Field(description="Why a person has to take over, or the topic that needs a passage.")
    decision: Literal["hit", "ambiguous", "miss"] | None = Field(description="Of the search; null without one.")
    passages: list[Passage] = Field(description="What was found, in the order in which a model is given it.")
    citations: list[Citation]
    unsupported: list[str] = Field(description="Figures in the answer that no passage and no customer states.")
    dropped_citations: int = Field(description="Markers of the model that were removed: no passage supported them.")
    degraded: list[Literal["retrieval", "engine"]] = Field(description="Parts that failed.")
    adapter: str
    index: str
    release: str
    prompt: str
    experiment: ExperimentArm | None = Field(description="What the customer takes part in; null outside of one.")


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: _Object | None = None


class Choice(BaseModel):
    index: int
    message: _Object
    finish_reason: str
    logprobs: _Object | None = None


class ChatCompletion(BaseModel):
    """OpenAI's, and how it was made."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    assistant: Extension


class Feedback(BaseModel):
    """A customer's opinion of a reply; a later one replaces what it gives, `thumb: null` alone takes it back.

    An empty text takes that text back, and thumb up the reason and the correction.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"id": "chatcmpl-5f0c…", "thumb": "down", "reason": "wrong", "correction": "It is 45 days."}]
        }
    )

    id: str = Field(max_length=100, description="Of the reply.")
    thumb: Literal["up", "down"] | None = None
    reason: str | None = Field(None, max_length=500)
    correction: str | None = Field(None, max_length=4000, description="What the answer should have been.")


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: ErrorDetail


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of a route, for OpenAPI."""
    return {status: {"model": ErrorBody, "description": _MEANINGS[status]} for status in statuses}


_MEANINGS = {
    400: "The request is not what it should be.",
    401: "A key is needed, or is not known.",
    403: "The key may not do this.",
    404: "There is no such thing.",
    413: "The request is too large.",
    429: "The requests of this minute, or the tokens of this day, are used up; see Retry-After.",
    500: "The engine failed.",
    503: "Too many requests are waiting, or the engine is starting; see Retry-After.",
}
