"""Sampled sequences, and the log-probabilities of a prompt."""

import math
from typing import Annotated

from pydantic import BeforeValidator, Field

from backends.tinkex.types.wire_record import ReadRecord

TopkLogprobs = list[list[tuple[int, float]] | None]
"""For each position the most likely tokens with their log-probabilities; None where nothing was computed."""


def _nan_is_none(value: object) -> object:
    if not isinstance(value, list):
        return value
    return [None if isinstance(item, float) and math.isnan(item) else item for item in value]


PromptLogprobs = Annotated[list[float | None], BeforeValidator(_nan_is_none)]


class SampledSequence(ReadRecord):
    """One sequence. ``stop_reason`` is ``stop`` or ``length``."""

    stop_reason: str = ""
    tokens: list[int] = Field(default_factory=list)
    logprobs: list[float] | None = None
    topk_logprobs: TopkLogprobs | None = None


class SampleResponse(ReadRecord):
    """The answer to a sampling request. A log-probability that is not defined (the first token's) is None."""

    sequences: list[SampledSequence] = Field(default_factory=list)
    prompt_logprobs: PromptLogprobs | None = None
    topk_prompt_logprobs: TopkLogprobs | None = None
    prompt_cache_hit_tokens: int = 0
