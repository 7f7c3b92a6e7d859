"""Requests for chat completions, as a checked record, and their conversion to a prompt.

Every field either changes the answer or is refused. Of fields that this server has no use for, only the value that
asks for nothing is accepted, because some clients always send it.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, JsonValue, ValidationInfo, field_validator, model_validator

from crucible.errors import InvalidRequest
from crucible.prompt import Prompt
from crucible.values.record import Record
from crucible.values.record_reader import read_record
from crucible.values.scalars import Real, Whole, Whole64

MAX_ANSWERS: Final = 128
"""OpenAI's own limit of ``n``."""
_EMPTY: Final[tuple[object, ...]] = (None, [], {})


class StreamOptions(Record):
    """Options of a stream."""

    include_usage: bool = False
    """The last chunk before the end has the usage."""
    include_obfuscation: Literal[False] = False


class ChatRequest(Record):
    """The body of ``POST /v1/chat/completions``. ``null`` means that a field is absent."""

    model_config = ConfigDict(protected_namespaces=())

    model: str = Field(min_length=1, max_length=10_000)
    messages: list[dict[str, JsonValue]] = Field(min_length=1)
    tools: list[dict[str, JsonValue]] | None = None
    tool_choice: str | dict[str, JsonValue] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Whole = Field(default=1, ge=1, le=MAX_ANSWERS)
    max_tokens: Whole | None = Field(default=None, ge=1, lt=2**63)
    max_completion_tokens: Whole | None = Field(default=None, ge=1, lt=2**63)
    temperature: Real | None = None
    top_p: Real | None = None
    top_k: Whole64 | None = None
    """Not of OpenAI's API, but of most servers that follow it."""
    frequency_penalty: Real | None = None
    presence_penalty: Real | None = None
    stop: str | list[str] | None = None
    seed: Whole64 | None = None
    logprobs: bool = False
    top_logprobs: Whole64 | None = None
    response_format: dict[str, JsonValue] | None = None
    extended_thinking: bool = False
    """Not of OpenAI's API: whether the model thinks before it answers, where it can."""
    user: str | None = Field(default=None, max_length=1_000)
    """A label of the request, in the log of the server."""

    # what clients send to ask for nothing
    store: Literal[False] | None = None
    parallel_tool_calls: Literal[True] | None = None
    service_tier: Literal["auto", "default"] | None = None
    modalities: list[Literal["text"]] | None = None
    logit_bias: Annotated[dict[str, JsonValue], Field(max_length=0)] | None = None
    metadata: Annotated[dict[str, JsonValue], Field(max_length=0)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: object) -> object:
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value

    @field_validator("messages", mode="after")
    @classmethod
    def _without_empty_fields(cls, messages: list[dict[str, JsonValue]]) -> list[dict[str, JsonValue]]:
        return [_message(message) for message in messages]

    @field_validator("max_completion_tokens", mode="after")
    @classmethod
    def _one_limit(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("max_tokens") not in (None, value):
            raise ValueError("max_tokens is another number; give one of the two")
        return value

    @field_validator("stream_options", mode="after")
    @classmethod
    def _of_a_stream(cls, value: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        if value is not None and not info.data.get("stream"):
            raise ValueError("it needs stream: true")
        return value

    @field_validator("top_logprobs", mode="after")
    @classmethod
    def _of_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and not info.data.get("logprobs"):
            raise ValueError("it needs logprobs: true")
        return value

    @property
    def includes_usage(self) -> bool:
        """A stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage


def read_request(data: object) -> ChatRequest:
    """Validate a body. Raises InvalidRequest, naming the field and what is allowed."""
    if not isinstance(data, dict):
        raise InvalidRequest.of("body", type(data).__name__, "it must be a JSON object")
    return read_record(ChatRequest, data)


def prompt_of(request: ChatRequest, model: str | None) -> Prompt:
    """Convert a request to a prompt for a backend's model.

    Raises:
        InvalidRequest: a message, a tool or an option is invalid; the error names it as it is in the request.
    """
    limit = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    options: dict[str, Any] = {
        "model": model,
        "n": request.n,
        "max_tokens": limit,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
        "stop": request.stop,
        "seed": request.seed,
        "logprobs": request.logprobs,
        "top_logprobs": request.top_logprobs,
        "response_format": request.response_format,
        "extended_thinking": request.extended_thinking,
    }
    return read_record(
        Prompt,
        {
            "messages": request.messages,
            "tools": request.tools,
            "tool_choice": _tool_choice(request.tool_choice),
            "options": options,
        },
    )


def _tool_choice(value: str | dict[str, JsonValue] | None) -> object:
    """``{type: function, function: {name}}`` becomes ``{name}``."""
    if isinstance(value, dict) and value.get("type") == "function" and set(value) == {"type", "function"}:
        inner = value["function"]
        return dict(inner) if isinstance(inner, Mapping) else inner
    return value


def _message(message: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Drop what a client's own record of an answer has besides its content, if it is empty, and the numbers that
    a stream's record gives to its tool calls."""
    plain = {name: value if name == "content" else _without_nulls(value) for name, value in message.items()}
    found = {name: value for name, value in plain.items() if name == "content" or value not in _EMPTY}
    calls = found.get("tool_calls")
    if isinstance(calls, list):
        found["tool_calls"] = [_without_number(call, number) for number, call in enumerate(calls)]
    return found


def _without_number(call: JsonValue, number: int) -> JsonValue:
    if not isinstance(call, dict) or call.get("index") != number:
        return call
    return {name: value for name, value in call.items() if name != "index"}


def _without_nulls(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
