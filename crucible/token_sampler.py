"""The sampling contract: token sequences drawn from weights, each under a seed and a key.

A caller that survives its own death journals the reference of a sampler (``TokenSampler.ref``) before it samples.
The next process opens the same sampler by that reference, and repeats the requests whose answers it lost under the
same keys: a service with a record of its requests answers them from it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from crucible.errors import MalformedAnswer, Unsupported
from crucible.values.json_types import FiniteObject
from crucible.values.record import Record
from crucible.values.scalars import Count


class SamplingSpec(Record):
    """The settings of a sampling request. A ``temperature`` of 0 selects the most likely token; a sequence ends
    with one of the ``stop_tokens``, which belongs to it, or after ``max_tokens`` tokens."""

    max_tokens: int = Field(ge=1, le=100_000_000)
    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1, le=1_000_000)
    stop_tokens: tuple[Count, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenSample:
    """A sampled sequence: its tokens, the log-probability of each in nats (under the weights, at temperature 1),
    and whether it ended with a stop token. ``sequence_id`` names it in the service's record of sequences for
    training, where there is one."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool
    sequence_id: str | None = None


class SamplerRef(Record):
    """The reference by which another process opens the same sampler. Contains no credential. ``session_id`` is the
    service's session that owns its recorded sequences."""

    backend: str
    model: str
    session_id: str | None = None
    details: FiniteObject = Field(default_factory=dict)


class TokenSampler(ABC):
    """A sampler of one model: saved weights, or a base model."""

    @property
    @abstractmethod
    def ref(self) -> SamplerRef:
        """The reference for other processes."""

    @property
    def base_model(self) -> str | None:
        """The base model of the weights, whose tokenizer made their tokens; None if that is not known."""
        return None

    @abstractmethod
    async def sample(
        self, tokens: Sequence[int], n: int, settings: SamplingSpec, *, seed: int, key: int
    ) -> Sequence[TokenSample]:
        """Sample ``n`` sequences that continue ``tokens``.

        ``seed`` (0 to 2^53 - 1) determines them as far as the service is deterministic. ``key`` (0 to 2^53 - 1)
        names the request: repeated with the same arguments, a service that keeps a record returns the answer it
        gave.

        Raises:
            InvalidRequest: the prompt is empty or too long, or the key was used for another request.
            RunGone: the sampler's session has ended.
            BackendError: the service failed, or gives no log-probabilities.
        """

    async def score(self, tokens: Sequence[int]) -> Sequence[float]:
        """Return the log-probability of each token after the first, given those before it, in nats.

        Raises:
            Unsupported: the backend scores no given tokens.
        """
        raise Unsupported("this backend scores no given tokens", backend=self.ref.backend)

    async def top_tokens(self, tokens: Sequence[int], k: int) -> Sequence[Sequence[tuple[int, float]]]:
        """Return the ``k`` most likely tokens in the place of each token after the first, given those before it,
        each with its log-probability in nats; the most likely first, and all of them where there are fewer.

        Raises:
            Unsupported: the backend does not say (``Capabilities.supports_soft_targets``).
        """
        raise Unsupported("this backend does not say which tokens are most likely", backend=self.ref.backend)

    async def close(self) -> None:
        """Release the sampler. The weights stay."""


def checked_scores(scores: Sequence[float], tokens: Sequence[int], model: str, *, backend: str) -> Sequence[float]:
    """Return the scores of tokens, one for each after the first.

    Raises:
        MalformedAnswer: there are more or fewer, or one is NaN or infinite.
    """
    if len(scores) != len(tokens) - 1 or not all(map(math.isfinite, scores)):
        raise MalformedAnswer(
            f"{model} has scored {len(tokens)} tokens without a log-probability for each", backend=backend
        )
    return scores
