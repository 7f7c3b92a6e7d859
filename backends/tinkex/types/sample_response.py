"""Results of sampling."""

import math
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field

from backends.tinkex.types.tensor_data import TensorData
from backends.tinkex.types.wire_record import ReadRecord

TopkLogprobs = list[list[tuple[int, float]] | None]
"""The most likely tokens and their log-probabilities per position; None where not computed."""


def _nan_is_none(value: object) -> object:
    if not isinstance(value, list):
        return value
    return [None if isinstance(item, float) and math.isnan(item) else item for item in value]


PromptLogprobs = Annotated[list[float | None], BeforeValidator(_nan_is_none)]


class SampledSequence(ReadRecord):
    """A sampled sequence. ``stop_reason`` is ``stop`` or ``length``.

    ``sequence_id`` names it within its session, as in provenance spans; None on servers without such ids.
    """

    stop_reason: str = ""
    sequence_id: str | None = None
    tokens: list[int] = Field(default_factory=list)
    logprobs: list[float] | None = None
    topk_logprobs: TopkLogprobs | None = None


class PromptAltTokens(ReadRecord):
    """Tokens drawn at each position of the prompt after the first, ``[prompt length - 1, k]``."""

    tokens: TensorData
    logprobs: TensorData


class SampleResponse(ReadRecord):
    """The result of a sampling request.

    Log-probabilities of the prompt have one entry per token, with None where undefined (the first).
    ``target_prompt_logprobs`` has the shape and layout of the request's ids, 0.0 where the id is -1.
    ``request_id``, ``sampling_session_id`` and ``seq_id`` are those of the request, set by the client.
    """

    sequences: list[SampledSequence] = Field(default_factory=list)
    prompt_logprobs: PromptLogprobs | None = None
    topk_prompt_logprobs: TopkLogprobs | None = None
    prompt_cache_hit_tokens: int = 0
    target_prompt_logprobs: TensorData | None = None
    prompt_alt_tokens: PromptAltTokens | None = None
    request_id: str | None = None
    sampling_session_id: str | None = None
    seq_id: int | None = None

    def for_prompt_of(self, length: int) -> Self:
        """Return the response with the log-probabilities of a prompt of ``length`` tokens aligned to its tokens.

        Some servers omit the entry of the first token.
        """
        update: dict[str, Any] = {}
        for name in ("prompt_logprobs", "topk_prompt_logprobs"):
            rows = getattr(self, name)
            if rows is not None and len(rows) == length - 1:
                update[name] = [None, *rows]
            elif rows and len(rows) == length and rows[0] is not None:
                update[name] = [None, *rows[1:]]
        return self.model_copy(update=update) if update else self
