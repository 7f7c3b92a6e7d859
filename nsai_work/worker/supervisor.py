"""Supervision of a job: on a stop request it has a grace period, after which it is cancelled."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from nsai_work.concurrency.control import Control, StopReason, stop_error

T = TypeVar("T")

# a task that has not ended by then is abandoned; its writes are fenced
CANCEL_WAIT_S = 5.0


async def supervise(work: Coroutine[Any, Any, T], control: Control, grace_s: dict[StopReason, float]) -> T:
    """Run a job's coroutine and return its result.

    ``grace_s`` is the time that the coroutine has to stop by itself, for each reason; none by default.

    Raises:
        Canceled, JobTimeout, HandOver, LeaseLost: it was stopped.
        Exception: an error of the coroutine, unchanged.
    """
    task = asyncio.ensure_future(_contained(work))
    stop = asyncio.ensure_future(control.wait())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            await _end(task, grace_s.get(stop.result(), 0.0))
        return _result(task, control)
    except asyncio.CancelledError:
        await _end(task, 0.0)
        raise
    finally:
        stop.cancel()


async def _contained(work: Coroutine[Any, Any, T]) -> T:
    try:
        return await work
    except SystemExit as error:
        # asyncio would end the loop, and with it all other jobs
        raise RuntimeError(f"the job called sys.exit({error.code!r})") from error


async def _end(task: "asyncio.Future[Any]", grace_s: float) -> None:
    if grace_s > 0:
        await asyncio.wait({task}, timeout=grace_s)
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_WAIT_S)


def _result(task: "asyncio.Future[T]", control: Control) -> T:
    if task.done() and task.cancelled() and control.reason is None:
        raise RuntimeError("the job cancelled its own task")
    if not task.done() or task.cancelled():
        raise stop_error(control.reason or StopReason.SHUTDOWN)
    return task.result()
