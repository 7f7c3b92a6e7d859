"""A sampler of weights in this process."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar

from backends.local.generation import NextLogits, draw_tokens, score_tokens, top_tokens
from crucible.errors import InvalidRequest
from crucible.token_sampler import SamplerRef, SamplingSpec, TokenSample, TokenSampler

T = TypeVar("T")


class LocalSampler(TokenSampler):
    """Samples with a model in this process: the seed determines the sequences, so that no record of keys is needed.

    ``new_forward`` returns the model as a function of new tokens, from the start. ``before`` is awaited before each
    request. With an ``executor`` the computation runs there.
    """

    def __init__(
        self,
        ref: SamplerRef,
        new_forward: Callable[[], NextLogits],
        *,
        base_model: str | None = None,
        before: Callable[[], Awaitable[None]] | None = None,
        executor: Executor | None = None,
    ) -> None:
        self._ref = ref
        self._new_forward = new_forward
        self._base_model = base_model
        self._before = before
        self._executor = executor

    @property
    def ref(self) -> SamplerRef:
        return self._ref

    @property
    def base_model(self) -> str | None:
        return self._base_model

    async def sample(
        self, tokens: Sequence[int], n: int, settings: SamplingSpec, *, seed: int, key: int
    ) -> Sequence[TokenSample]:
        del key
        if not tokens:
            raise InvalidRequest.of("tokens", [], "at least one token", backend=self._ref.backend)
        if self._before is not None:
            await self._before()
        return [await self._run(partial(self._draw, tokens, settings, seed, index)) for index in range(n)]

    async def score(self, tokens: Sequence[int]) -> Sequence[float]:
        return await self._run(lambda: score_tokens(self._new_forward(), tokens))

    async def top_tokens(self, tokens: Sequence[int], k: int) -> Sequence[Sequence[tuple[int, float]]]:
        return await self._run(lambda: top_tokens(self._new_forward(), tokens, k))

    def _draw(self, tokens: Sequence[int], settings: SamplingSpec, seed: int, index: int) -> TokenSample:
        return draw_tokens(self._new_forward(), tokens, settings, seed=seed, index=index)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._executor is None:
            await asyncio.sleep(0)
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)
