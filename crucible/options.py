"""Options of a completion: sampling, format, limits. ``None`` means the backend's default."""

from enum import StrEnum
from typing import Final, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from crucible.rendering.openai_forms import options_form
from crucible.values.json_schema import check_json_schema
from crucible.values.json_types import FiniteObject
from crucible.values.record import Record
from crucible.values.scalars import Name, Real, Whole, Whole64

_FIELDS_ELSEWHERE: Final = {
    "messages": "messages",
    "prompt": "messages",
    "system": "system",
    "tools": "tools",
    "functions": "tools",
    "tool_choice": "tool_choice",
    "function_call": "tool_choice",
    "max_completion_tokens": "options.max_tokens",
    "max_output_tokens": "options.max_tokens",
    "stream_options": "options.stream",
}
"""Fields of providers that a checked field of the prompt determines."""


class ResponseFormat(StrEnum):
    """The format of the answer."""

    TEXT = "text"
    JSON = "json"
    JSON_SCHEMA = "json_schema"


class CacheControl(StrEnum):
    """The provider's caching of the prompt."""

    EPHEMERAL = "ephemeral"


class Options(Record):
    """The options of a completion. A backend refuses an option that it does not support, and ignores none."""

    model: Name | None = Field(default=None, min_length=1)
    """The name of a base model or, at a backend that trains, the path of a checkpoint."""
    temperature: Real | None = Field(default=None, ge=0, le=10)
    """0 selects greedy decoding."""
    max_tokens: Whole64 | None = Field(default=None, ge=1)
    top_p: Real | None = Field(default=None, gt=0, le=1)
    top_k: Whole64 | None = Field(default=None, ge=1)
    frequency_penalty: Real | None = Field(default=None, ge=-2, le=2)
    presence_penalty: Real | None = Field(default=None, ge=-2, le=2)
    stop: tuple[str, ...] = ()
    """Sequences that end the answer and are not part of it."""
    response_format: ResponseFormat | None = None
    json_schema: FiniteObject | None = None
    json_schema_name: str | None = Field(default=None, min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")
    json_schema_description: str | None = None
    json_schema_strict: bool | None = None
    """The provider must enforce the schema exactly."""
    stream: bool = False
    cache_control: CacheControl | None = None
    extended_thinking: bool = False
    thinking_budget_tokens: Whole64 | None = Field(default=None, ge=1)
    seed: Whole64 | None = None
    timeout_ms: Whole64 | None = Field(default=None, ge=1)
    n: Whole = Field(default=1, ge=1, le=1024)
    """The number of answers."""
    logprobs: bool = False
    """Return the log probability of each generated token."""
    top_logprobs: Whole | None = Field(default=None, ge=0, le=100)
    """The number of most likely tokens to return at each position."""
    extra: FiniteObject = Field(default_factory=dict)
    """Options specific to a provider, under the provider's own names. None may replace a field of the prompt."""

    @model_validator(mode="before")
    @classmethod
    def _converted(cls, value: object) -> object:
        return options_form(value)

    @field_validator("extra")
    @classmethod
    def _replaces_nothing(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for name in value:
            if name in cls.model_fields:
                raise ValueError(f"{name!r} is not allowed here; set options.{name}, which is checked")
            if name in _FIELDS_ELSEWHERE:
                raise ValueError(f"{name!r} is not allowed here; set {_FIELDS_ELSEWHERE[name]}, which is checked")
        return value

    @field_validator("stop", mode="before")
    @classmethod
    def _as_tuple(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else () if value is None else value

    @field_validator("stop")
    @classmethod
    def _no_empty_sequence(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "" in value:
            raise ValueError("a stop sequence must not be empty")
        return value

    @field_validator("json_schema")
    @classmethod
    def _valid_schema(cls, value: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
        if value is not None:
            check_json_schema(value)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.response_format is ResponseFormat.JSON_SCHEMA and self.json_schema is None:
            raise ValueError("response_format json_schema needs json_schema")
        if self.json_schema is not None and self.response_format in (None, ResponseFormat.TEXT):
            raise ValueError("json_schema needs response_format json_schema")
        for field in ("json_schema_name", "json_schema_description", "json_schema_strict"):
            if getattr(self, field) is not None and self.json_schema is None:
                raise ValueError(f"{field} needs json_schema")
        if self.thinking_budget_tokens is not None and not self.extended_thinking:
            raise ValueError("thinking_budget_tokens needs extended_thinking: true")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self
