"""Results of sampling."""

import math
from typing import Annotated

from pydantic import BeforeValidator, Field

from backends.tinkex.types.wire_record import ReadRecord

TopkLogprobs = list[list[tuple[int, float]] | None]
"""The most likely tokens and their log-probabilities per position; None where not computed."""


def _nan_is_none(value: object) -> object:
    if not isinstance(value, list):
        return value
    return [None if isinstance(item, float) and math.isnan(item) else item for item in value]


PromptLogprobs = Annotated[list[float | None], BeforeValidator(_nan_is_none)]


class SampledSequence(ReadRecord):
    """A sampled sequence. ``stop_reason`` is ``stop`` or ``length``."""

    stop_reason: str = ""
    tokens: list[int] = Field(default_factory=list)
    logprobs: list[float] | None = None
    topk_logprobs: TopkLogprobs | None = None


class SampleResponse(ReadRecord):
    """The result of a sampling request. An undefined log-probability (the first token's) is None."""

    sequences: list[SampledSequence] = Field(default_factory=list)
    prompt_logprobs: PromptLogprobs | None = None
    topk_prompt_logprobs: TopkLogprobs | None = None
    prompt_cache_hit_tokens: int = 0
