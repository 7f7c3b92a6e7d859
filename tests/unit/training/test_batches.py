"""Batches are made ahead, but only so far; a failed one is made again; a step back makes them anew."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible.errors import BackendUnavailable
from nsai_work.training.sources.batches import BatchSource, Lookahead, StepBatch

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The driver is written for asyncio."""
    return "asyncio"


class Recorder(BatchSource):
    """Makes batches once they are released, and counts."""

    def __init__(self, *, failures: int = 0) -> None:
        self.made: list[int] = []
        self.running: set[int] = set()
        self.most = 0
        self.failures = failures
        self.closed = False

    @property
    def examples(self) -> int:
        return 1

    async def batch(self, step: int) -> StepBatch:
        self.running.add(step)
        self.most = max(self.most, len(self.running))
        try:
            await asyncio.sleep(0)
            if self.failures:
                self.failures -= 1
                raise BackendUnavailable("not now")
            self.made.append(step)
            return StepBatch(step, 0, step - 1, ())
        finally:
            self.running.discard(step)

    async def close(self) -> None:
        assert not self.running
        self.closed = True


@given(depth=st.integers(1, 5), steps=st.lists(st.integers(1, 9), min_size=1, max_size=12))
async def test_any_order_of_steps_gives_their_batches(depth: int, steps: list[int]) -> None:
    """Forward, back after a restore, repeated: never more than the depth ahead, none beyond the last step."""
    source = Recorder()
    ahead = Lookahead(source, depth=depth, last_step=9)

    assert [(await ahead.batch(step)).step for step in steps] == steps
    await ahead.close()

    assert max(source.made) <= min(9, max(steps) + depth)
    assert source.closed


async def test_each_step_is_made_once_and_ahead() -> None:
    """A run without faults makes each batch once, and has the next one ready."""
    source = Recorder()
    ahead = Lookahead(source, depth=2, last_step=4)
    for step in range(1, 5):
        await ahead.batch(step)
        await asyncio.sleep(0)
        assert step == 4 or ahead.ready(step + 1)
    await ahead.close()

    assert source.made == [1, 2, 3, 4]
    assert source.most <= 3


async def test_a_failed_batch_is_not_ready_and_is_made_again() -> None:
    """The error reaches the call, and the next call tries again."""
    ahead = Lookahead(Recorder(failures=1), depth=1, last_step=1)

    with pytest.raises(BackendUnavailable):
        await ahead.batch(1)

    assert (await ahead.batch(1)).step == 1
    await ahead.close()


async def test_closing_cancels_what_is_being_made() -> None:
    """And the source is closed after that."""
    source = Recorder()
    ahead = Lookahead(source, depth=3, last_step=9)
    assert not ahead.ready(1)
    await asyncio.sleep(0)

    await ahead.close()

    assert source.closed
    assert source.made == []
