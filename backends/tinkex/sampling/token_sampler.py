"""Samplers of the Tinker API behind the sampling contract."""

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Self, TypeVar

from backends.tinkex.errors import BACKEND
from backends.tinkex.types.model_input import ModelInput
from backends.tinkex.types.sampling_params import SamplingParams
from crucible.errors import MalformedAnswer, RunCorrupted
from crucible.token_sampler import SamplerRef, SamplingSpec, TokenSample, TokenSampler

if TYPE_CHECKING:
    from backends.tinkex.client.requests.api_future import ApiFuture
    from backends.tinkex.client.sampling.client import SamplingClient
    from backends.tinkex.client.training.client import TrainingClient

T = TypeVar("T")


class TinkexSampler(TokenSampler):
    """A sampling session. Keys are its sequence numbers, so that the service's record of requests answers repeats,
    also those of another process. ``on_close`` releases the session, if it is this sampler's own."""

    def __init__(
        self,
        client: "SamplingClient",
        model: str,
        *,
        base_model: str | None = None,
        on_close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._client = client
        self._model = model
        self._base_model = base_model
        self._on_close = on_close

    @classmethod
    def attached(cls, run: "TrainingClient", ref: SamplerRef) -> Self:
        """Return the sampler that another process opened in a run's session. No I/O."""
        client = run.attach_sampling_client(
            str(ref.details["sampling_session_id"]),
            record_stability_info=bool(ref.details.get("record_sequences")),
        )
        return cls(client, ref.model)

    @property
    def ref(self) -> SamplerRef:
        return SamplerRef(
            backend=BACKEND,
            model=self._model,
            session_id=self._client.session_id,
            details={
                "sampling_session_id": self._client.sampling_session_id,
                "record_sequences": self._client.record_stability_info,
            },
        )

    @property
    def base_model(self) -> str | None:
        return self._base_model

    async def sample(
        self, tokens: Sequence[int], n: int, settings: SamplingSpec, *, seed: int, key: int
    ) -> Sequence[TokenSample]:
        params = SamplingParams(
            max_tokens=settings.max_tokens,
            seed=seed,
            stop=list(settings.stop_tokens),
            temperature=settings.temperature,
            top_k=-1 if settings.top_k is None else settings.top_k,
            top_p=settings.top_p,
        )
        response = await _owned(self._client.sample(ModelInput.from_ints(tokens), n, params, seq_id=key))
        samples = []
        for sequence in response.sequences:
            logprobs = sequence.logprobs
            if logprobs is None or len(logprobs) != len(sequence.tokens):
                raise MalformedAnswer(
                    "a sample was answered without a log-probability for each token",
                    backend=BACKEND,
                    request_id=response.request_id,
                )
            if not all(map(math.isfinite, logprobs)):
                raise RunCorrupted(
                    f"a sample of {self._model} has a log-probability that is not finite",
                    backend=BACKEND,
                    request_id=response.request_id,
                    details={"model": self._model, "detected_by": "value"},
                )
            samples.append(
                TokenSample(
                    tuple(sequence.tokens), tuple(logprobs), sequence.stop_reason == "stop", sequence.sequence_id
                )
            )
        return samples

    async def score(self, tokens: Sequence[int]) -> Sequence[float]:
        logprobs = await _owned(self._client.compute_logprobs(ModelInput.from_ints(tokens)))
        return [math.nan if value is None else value for value in logprobs[1:]]

    async def top_tokens(self, tokens: Sequence[int], k: int) -> Sequence[Sequence[tuple[int, float]]]:
        found = (await _owned(self._client.compute_topk_logprobs(ModelInput.from_ints(tokens), k)))[1:]
        if len(found) != len(tokens) - 1 or not all(found):
            raise MalformedAnswer("the most likely tokens are not those of each token", backend=BACKEND)
        return [each or () for each in found]

    async def close(self) -> None:
        if self._on_close is not None:
            await self._on_close()


async def _owned(future: "ApiFuture[T]") -> T:
    """Await a request that nobody else awaits: canceled with its caller, it holds no connection."""
    try:
        return await future
    finally:
        future.cancel()
