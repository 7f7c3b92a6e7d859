"""Samplers are opened once, anew when their session has ended, and all of them are closed."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from crucible.errors import BackendUnavailable, RunGone
from crucible.runtime.opened_samplers import OpenedSamplers
from crucible.token_sampler import SamplerRef, TokenSampler

pytestmark = pytest.mark.anyio


class Numbered(TokenSampler):
    """A sampler that knows whether its session has ended, and whether it is closed."""

    def __init__(self, *, gone: bool) -> None:
        self.gone = gone
        self.closed = 0

    @property
    def ref(self) -> SamplerRef:
        return SamplerRef(backend="tests", model="m")

    async def sample(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("nobody samples here")

    async def score(self, tokens: Sequence[int]) -> Sequence[float]:
        await asyncio.sleep(0)
        if self.gone:
            raise RunGone("its session has ended")
        return [0.0] * (len(tokens) - 1)

    async def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("ended", [0, 1])
async def test_two_questions_share_a_sampler(ended: int) -> None:
    """Whoever notices first that its session has ended closes it, and opens the next."""
    opened: list[Numbered] = []

    async def open_sampler(model: str) -> TokenSampler:
        opened.append(Numbered(gone=len(opened) < ended))
        await asyncio.sleep(0)
        return opened[-1]

    samplers = OpenedSamplers(open_sampler)
    answers = await asyncio.gather(*(samplers.ask("m", lambda one: one.score([1, 2])) for _ in range(2)))
    assert answers == [[0.0], [0.0]]
    assert [one.closed for one in opened] == [1] * ended + [0]
    await samplers.close()
    assert [one.closed for one in opened] == [1] * (ended + 1)


async def test_a_session_that_ends_at_once_again_is_an_error() -> None:
    """It is not opened for ever; nor is a sampler opened anew for another failure."""
    opened: list[Numbered] = []

    async def open_sampler(model: str) -> TokenSampler:
        opened.append(Numbered(gone=True))
        return opened[-1]

    async def away(sampler: TokenSampler) -> None:
        raise BackendUnavailable("away")

    samplers = OpenedSamplers(open_sampler)
    with pytest.raises(RunGone):
        await samplers.ask("m", lambda one: one.score([1, 2]))
    assert len(opened) == 2
    with pytest.raises(BackendUnavailable):
        await samplers.ask("m", away)
    assert len(opened) == 2
