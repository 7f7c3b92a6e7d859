"""Samplers by model, opened when they are first asked."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from crucible.errors import RunGone
from crucible.token_sampler import TokenSampler

T = TypeVar("T")


class OpenedSamplers:
    """The samplers of models, each opened by ``open_sampler`` when it is first asked, and anew when its session has
    ended: that says nothing about a run or another session."""

    def __init__(self, open_sampler: Callable[[str], Awaitable[TokenSampler]]) -> None:
        self._open_sampler = open_sampler
        self._samplers: dict[str, TokenSampler] = {}
        self._opening = asyncio.Lock()

    async def ask(self, model: str, question: Callable[[TokenSampler], Awaitable[T]]) -> T:
        """Return what the sampler of a model answers. Raises what ``open_sampler`` and the question raise."""
        sampler = await self._opened(model)
        try:
            return await question(sampler)
        except RunGone:
            await self._drop(model, sampler)
            return await question(await self._opened(model))

    async def close(self) -> None:
        """Close all samplers."""
        samplers, self._samplers = self._samplers, {}
        for sampler in samplers.values():
            await sampler.close()

    async def _opened(self, model: str) -> TokenSampler:
        async with self._opening:
            if model not in self._samplers:
                self._samplers[model] = await self._open_sampler(model)
            return self._samplers[model]

    async def _drop(self, model: str, sampler: TokenSampler) -> None:
        # another question may have dropped it already
        if self._samplers.get(model) is sampler:
            del self._samplers[model]
            await sampler.close()
