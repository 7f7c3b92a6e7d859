"""Work beside its control: it stops by itself, or it is stopped."""

import asyncio

import pytest

from crucible.errors import Canceled
from nsai_work.control import Control, StopReason
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
def test_work_that_does_not_stop_is_canceled(reason: StopReason, error: type[Exception]) -> None:
    """Without a grace period it ends at once, with the error that belongs to the reason."""

    async def scenario() -> None:
        control, canceled = Control(), asyncio.Event()
        asyncio.get_running_loop().call_soon(control.stop, reason)
        with pytest.raises(error):
            await supervise(_stubborn(canceled), control, {})
        assert canceled.is_set()

    asyncio.run(scenario())


def test_work_that_stops_by_itself_is_let_finish() -> None:
    """Within its grace period work ends as it likes: here with a result."""

    async def scenario() -> None:
        control = Control()

        async def polite() -> str:
            await control.wait()
            await asyncio.sleep(0)
            return "done"

        asyncio.get_running_loop().call_soon(control.stop, StopReason.SHUTDOWN)
        assert await supervise(polite(), control, GRACE) == "done"

    asyncio.run(scenario())


def test_what_the_work_raises_comes_out() -> None:
    """Errors are not changed on the way."""

    async def scenario() -> None:
        async def broken() -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await supervise(broken(), Control(), GRACE)

    asyncio.run(scenario())


def test_cancelling_the_supervisor_cancels_the_work() -> None:
    """A worker that is told to hurry leaves nothing running."""

    async def scenario() -> None:
        canceled = asyncio.Event()
        task = asyncio.ensure_future(supervise(_stubborn(canceled), Control(), GRACE))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert canceled.is_set()

    asyncio.run(scenario())
