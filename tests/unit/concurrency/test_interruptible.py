"""An interruptible wait ends with its result, a stop request, or a corrupted run."""

import asyncio
from typing import Any

import pytest

from crucible.errors import Canceled, RunCorrupted
from nsai_work.concurrency.control import Control, StopReason
from nsai_work.concurrency.interruptible import InterruptibleAwaiter, within


class Watched:
    """A run that is corrupted once ``corrupted`` is set."""

    def __init__(self) -> None:
        self.corrupted = asyncio.Event()

    async def watch(self, poll_interval_ms: int) -> RunCorrupted:
        await self.corrupted.wait()
        return RunCorrupted("flagged")


async def never(ended: list[str]) -> None:
    """Wait for ever, and record the cancellation."""
    try:
        await asyncio.Event().wait()
    finally:
        ended.append("ended")


def test_a_stop_ends_a_wait_and_what_it_waited_for() -> None:
    """No task is left in the background."""

    async def scene() -> list[str]:
        control, ended = Control(), []
        wait = InterruptibleAwaiter(control)
        task = asyncio.create_task(wait(never(ended)))
        await asyncio.sleep(0)
        control.stop(StopReason.CANCEL)
        with pytest.raises(Canceled):
            await task
        with pytest.raises(Canceled):
            await wait(never(ended))
        await wait.close()
        return ended

    assert asyncio.run(scene()) == ["ended"]


def test_a_flagged_run_ends_a_wait() -> None:
    """Until it is no longer watched."""

    async def scene() -> str:
        run: Any = Watched()
        wait = InterruptibleAwaiter(Control())
        await wait.watch(run, 10)
        run.corrupted.set()
        with pytest.raises(RunCorrupted, match="flagged"):
            await wait(never([]))
        await wait.unwatch()
        result = await wait(asyncio.sleep(0, "went on"))
        await wait.close()
        return result

    assert asyncio.run(scene()) == "went on"


def test_a_result_that_is_there_is_not_lost_to_a_stop() -> None:
    """The result of a finished coroutine is returned; the stop takes effect at the next wait."""

    async def scene() -> str:
        control = Control()
        wait = InterruptibleAwaiter(control)

        async def work() -> str:
            control.stop(StopReason.SHUTDOWN)
            return "done"

        try:
            return await wait(work())
        finally:
            await wait.close()

    assert asyncio.run(scene()) == "done"


def test_a_deadline_ends_a_wait() -> None:
    """It raises TimeoutError."""

    async def scene() -> None:
        deadline = asyncio.create_task(asyncio.sleep(0))
        with pytest.raises(TimeoutError):
            await within(asyncio.Event().wait(), deadline)

    asyncio.run(scene())
