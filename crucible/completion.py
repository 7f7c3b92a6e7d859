"""A completion: what a backend answered, what it used, and what it cost."""

from enum import StrEnum
from itertools import pairwise
from typing import Self

from pydantic import Field, field_validator, model_validator

from crucible.json_types import FiniteJson, FiniteObject
from crucible.prompt import Message, Role, ToolCall
from crucible.record import Record

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
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"
    ERROR = "error"


class Thinking(Record):
    """What the model thought before it answered."""

    content: str = ""
    tokens: int | None = Field(default=None, ge=0)


class UsageSource(StrEnum):
    """Who counted the tokens."""

    PROVIDER = "provider"
    ESTIMATED = "estimated"


class Usage(Record):
    """Tokens used. A count that is not known is ``None``, which is not 0.

    ``prompt_tokens`` includes cached ones, ``completion_tokens`` includes those of thinking.
    """

    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)
    total_tokens: int = Field(default=0, ge=0)
    thinking_tokens: int | None = Field(default=None, ge=0)
    cached_tokens: int | None = Field(default=None, ge=0)
    source: UsageSource = UsageSource.PROVIDER

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int) -> Self:
        """A usage of which only these two counts are known."""
        return cls(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
        )


class TopLogprob(Record):
    """One of the most likely tokens at a place."""

    token: str
    token_id: int | None = None
    logprob: float | None = Field(default=None, allow_inf_nan=False)


class TokenLogprob(Record):
    """A generated token and the log probability (nats) that the model gave it."""

    token: str
    token_id: int | None = None
    logprob: float | None = Field(default=None, allow_inf_nan=False)
    top: tuple[TopLogprob, ...] = ()


class Choice(Record):
    """One answer."""

    index: int = Field(default=0, ge=0)
    message: Message
    finish_reason: FinishReason | None = None
    thinking: Thinking | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    tokens: tuple[int, ...] | None = None
    """The ids that the model generated, where the backend shows them."""
    raw_finish_reason: str | None = None
    """The provider's own word, where it says more."""

    @field_validator("message")
    @classmethod
    def _spoken_by_the_assistant(cls, message: Message) -> Message:
        if message.role is not Role.ASSISTANT:
            raise ValueError(f"an answer is the assistant's, not one of {message.role.value}")
        return message


class Completion(Record):
    """The answer to a prompt."""

    choices: tuple[Choice, ...] = ()
    model: str | None = None
    usage: Usage | None = None
    latency_ms: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    time_to_first_token_ms: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    request_id: str | None = None
    trace_id: str | None = None
    cost: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """US dollars; ``None`` when not known, which is not 0."""
    raw_response: FiniteJson = None
    metadata: FiniteObject = Field(default_factory=dict)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        indexes = [choice.index for choice in self.choices]
        if any(later <= earlier for earlier, later in pairwise(indexes)):
            raise ValueError(f"choices must come in the order of their index, each once; these are {indexes}")
        return self

    @property
    def text(self) -> str:
        """The text of the first answer; empty when there is none."""
        return self.choices[0].message.text() if self.choices else ""
