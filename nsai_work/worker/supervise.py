"""Runs a job's work beside its control: what does not stop by itself in time is canceled."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from nsai_work.control import Control, StopReason, stop_error

T = TypeVar("T")

# a task that survives its cancellation that long is left behind; its writes are fenced
CANCEL_WAIT_S = 5.0


async def supervised(work: Coroutine[Any, Any, T], control: Control, grace_s: dict[StopReason, float]) -> T:
    """The work's result. ``grace_s`` says how long it may take to stop by itself, per reason.

    Raises:
        Canceled, JobTimeout, HandOver, LeaseLost: it was told to stop and did.
        Exception: what the work raised.
    """
    task = asyncio.ensure_future(work)
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


async def _end(task: "asyncio.Future[Any]", grace_s: float) -> None:
    if grace_s > 0:
        await asyncio.wait({task}, timeout=grace_s)
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_WAIT_S)


def _result(task: "asyncio.Future[T]", control: Control) -> T:
    if not task.done() or task.cancelled():
        raise stop_error(control.reason or StopReason.SHUTDOWN)
    return task.result()
