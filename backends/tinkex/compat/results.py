"""The SDK's results of passes and of sampling."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from backends.tinkex import types as ours
from backends.tinkex.compat.tensor_data import TensorData

if TYPE_CHECKING:
    from numpy.typing import NDArray

StopReason = Literal["length", "stop"]
TopkLogprobs = list[list[tuple[int, float]] | None]


@dataclass(frozen=True)
class ForwardBackwardOutput:
    """The result of a pass: named arrays for each datum, and metrics of the batch."""

    loss_fn_output_type: str
    loss_fn_outputs: list[dict[str, TensorData]]
    metrics: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_tinkex(cls, output: ours.ForwardBackwardOutput) -> Self:
        """Return a result of this client as the SDK has it."""
        outputs = [
            {key: TensorData.from_tinkex(tensor) for key, tensor in record.items()}
            for record in output.loss_fn_outputs
        ]
        return cls(output.loss_fn_output_type, outputs, dict(output.metrics))


@dataclass(frozen=True)
class SampledSequence:
    """A sampled sequence."""

    stop_reason: StopReason
    sequence_id: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] | None = None
    topk_logprobs: TopkLogprobs | None = None

    @property
    def tokens_np(self) -> "NDArray[Any]":
        """The tokens as an int32 array."""
        return np.asarray(self.tokens, dtype=np.int32)

    @property
    def logprobs_np(self) -> "NDArray[Any] | None":
        """The log-probabilities as a float32 array."""
        return None if self.logprobs is None else np.asarray(self.logprobs, dtype=np.float32)


@dataclass(frozen=True)
class PromptAltTokens:
    """Tokens drawn at each position of the prompt after the first, ``[prompt length - 1, k]``."""

    tokens: TensorData
    logprobs: TensorData


@dataclass(frozen=True)
class SampleResponse:
    """The result of a sampling request."""

    sequences: list[SampledSequence]
    prompt_logprobs: list[float | None] | None = None
    topk_prompt_logprobs: TopkLogprobs | None = None
    target_prompt_logprobs: TensorData | None = None
    prompt_cache_hit_tokens: int = 0
    prompt_alt_tokens: PromptAltTokens | None = None

    @property
    def prompt_logprobs_np(self) -> "NDArray[Any] | None":
        """The log-probabilities of the prompt as a float32 array, NaN where there is none."""
        return None if self.prompt_logprobs is None else np.asarray(self.prompt_logprobs, dtype=np.float32)

    @classmethod
    def from_tinkex(cls, response: ours.SampleResponse) -> Self:
        """Return a result of this client as the SDK has it."""
        targets, drawn = response.target_prompt_logprobs, response.prompt_alt_tokens
        return cls(
            sequences=[_sequence(sequence) for sequence in response.sequences],
            prompt_logprobs=response.prompt_logprobs,
            topk_prompt_logprobs=response.topk_prompt_logprobs,
            target_prompt_logprobs=None if targets is None else TensorData.from_tinkex(targets),
            prompt_cache_hit_tokens=response.prompt_cache_hit_tokens,
            prompt_alt_tokens=None
            if drawn is None
            else PromptAltTokens(TensorData.from_tinkex(drawn.tokens), TensorData.from_tinkex(drawn.logprobs)),
        )


def _sequence(sequence: ours.SampledSequence) -> SampledSequence:
    return SampledSequence(
        stop_reason="length" if sequence.stop_reason == "length" else "stop",
        sequence_id=sequence.sequence_id or "",
        tokens=sequence.tokens,
        logprobs=sequence.logprobs,
        topk_logprobs=sequence.topk_logprobs,
    )
