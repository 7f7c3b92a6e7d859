"""Supervision: a job stops by itself within its grace period, or is cancelled."""

import asyncio

import pytest

from crucible.errors import Canceled
from nsai_work.concurrency.control import Control, StopReason
from nsai_work.errors import HandOver, JobTimeout, LeaseLost
from nsai_work.worker.supervisor import supervise

GRACE = {StopReason.CANCEL: 5.0, StopReason.TIMEOUT: 5.0, StopReason.SHUTDOWN: 5.0}


async def _stubborn(canceled: asyncio.Event) -> str:
    try:
        await asyncio.Event().wait()
    finally:
        canceled.set()
    return "never"


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (StopReason.CANCEL, Canceled),
        (StopReason.TIMEOUT, JobTimeout),
        (StopReason.SHUTDOWN, HandOver),
        (StopReason.LEASE_LOST, LeaseLost),
    ],
)
def test_a_job_that_does_not_stop_is_cancelled(reason: StopReason, error: type[Exception]) -> None:
    """Without a grace period it is cancelled at once, and ends with the error of the stop reason."""

    async def scenario() -> None:
        control, canceled = Control(), asyncio.Event()
        asyncio.get_running_loop().call_soon(control.stop, reason)
        with pytest.raises(error):
            await supervise(_stubborn(canceled), control, {})
        assert canceled.is_set()

    asyncio.run(scenario())


def test_a_job_may_finish_within_its_grace_period() -> None:
    """Its result is returned, although a stop was requested."""

    async def scenario() -> None:
        control = Control()

        async def polite() -> str:
            await control.wait()
            await asyncio.sleep(0)
            return "done"

        asyncio.get_running_loop().call_soon(control.stop, StopReason.SHUTDOWN)
        assert await supervise(polite(), control, GRACE) == "done"

    asyncio.run(scenario())


def test_errors_of_the_job_are_raised_unchanged() -> None:
    """Of any type."""

    async def scenario() -> None:
        async def broken() -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await supervise(broken(), Control(), GRACE)

    asyncio.run(scenario())


def test_cancelling_the_supervisor_cancels_the_job() -> None:
    """A forced stop leaves no job running."""

    async def scenario() -> None:
        canceled = asyncio.Event()
        task = asyncio.ensure_future(supervise(_stubborn(canceled), Control(), GRACE))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert canceled.is_set()

    asyncio.run(scenario())
