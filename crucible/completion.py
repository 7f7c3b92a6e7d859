"""A completion: a backend's answers to a prompt, with usage and cost."""

from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, JsonValue, field_validator, model_validator

from crucible.prompt import Message, Role, ToolCall
from crucible.values.json_types import to_json
from crucible.values.record import Record
from crucible.values.scalars import Count, Int64

__all__ = [
    "Choice",
    "Completion",
    "FinishReason",
    "Thinking",
    "TokenLogprob",
    "ToolCall",
    "TopLogprob",
    "Usage",
    "UsageSource",
]


class FinishReason(StrEnum):
    """The reason why an answer ended: complete with ``stop`` and ``tool_calls``, not otherwise."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    REFUSAL = "refusal"
    ERROR = "error"
    UNKNOWN = "unknown"
    """A provider's value that no backend knows; ``Choice.raw_finish_reason`` has it."""

    @property
    def is_complete(self) -> bool:
        """The model ended the answer by itself, with text or with tool calls."""
        return self in (FinishReason.STOP, FinishReason.TOOL_CALLS)


class Thinking(Record):
    """The model's reasoning before its answer."""

    content: str = ""
    tokens: Count | None = None


class UsageSource(StrEnum):
    """The source of the token counts."""

    PROVIDER = "provider"
    ESTIMATED = "estimated"


class Usage(Record):
    """Token counts. An unknown count is ``None``, not 0.

    ``prompt_tokens`` includes cached tokens, ``completion_tokens`` includes thinking tokens.
    """

    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    total_tokens: Count = 0
    thinking_tokens: Count | None = None
    cached_tokens: Count | None = None
    source: UsageSource = UsageSource.PROVIDER

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int) -> Self:
        """Create a usage from the two counts that every backend knows."""
        return cls(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
        )


class TopLogprob(Record):
    """A candidate token at a position, among the most likely ones."""

    token: str
    token_id: Int64 | None = None
    logprob: float | None = None


class TokenLogprob(Record):
    """A generated token with its log probability under the model, in nats."""

    token: str
    token_id: Int64 | None = None
    logprob: float | None = None
    top: tuple[TopLogprob, ...] = ()


class Choice(Record):
    """An answer; ``index`` is its position among the answers to the prompt."""

    index: Count = 0
    message: Message
    finish_reason: FinishReason | None = None
    thinking: Thinking | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    tokens: tuple[Int64, ...] | None = None
    """The ids of the generated tokens, where the backend reports them."""
    raw_finish_reason: str | None = None
    """The provider's own value, where it is more specific."""

    @field_validator("message")
    @classmethod
    def _has_role_assistant(cls, message: Message) -> Message:
        if message.role is not Role.ASSISTANT:
            raise ValueError(f"an answer has role assistant, not {message.role.value}")
        return message

    def turn(self) -> Message:
        """The message with its thinking, to append to the next prompt."""
        thinking = self.thinking.content if self.thinking is not None else None
        return self.message.model_copy(update={"thinking": thinking}) if thinking else self.message


class Completion(Record):
    """The answers to a prompt."""

    choices: tuple[Choice, ...] = ()
    model: str | None = None
    usage: Usage | None = None
    latency_ms: float | None = Field(default=None, ge=0)
    time_to_first_token_ms: float | None = Field(default=None, ge=0)
    request_id: str | None = None
    trace_id: str | None = None
    cost: float | None = Field(default=None, ge=0)
    """US dollars; ``None`` when unknown, not 0."""
    raw_response: Annotated[JsonValue, BeforeValidator(to_json)] = None
    metadata: Annotated[dict[str, JsonValue], BeforeValidator(to_json)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ascending_indexes(self) -> Self:
        indexes = [choice.index for choice in self.choices]
        if any(later <= earlier for earlier, later in pairwise(indexes)):
            raise ValueError(f"choices must have ascending, distinct indexes; these are {indexes}")
        return self

    @property
    def text(self) -> str:
        """The text of the first answer; empty without answers."""
        return self.choices[0].message.text() if self.choices else ""
