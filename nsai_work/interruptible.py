"""Waiting for one thing while others may end the wait: a stop from outside, or the service's word on the run."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from crucible.errors import RunCorrupted
from crucible.training import LiveRun
from nsai_work.control import Control, stop_error

T = TypeVar("T")


class Wait(Protocol):
    """Awaits a coroutine, and may end the wait by raising."""

    async def __call__(self, coroutine: Coroutine[Any, Any, T], /) -> T: ...


class Waiter:
    """One per attempt at a job. ``close`` it at the end."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._stop: asyncio.Task[Any] | None = None
        self._watch: asyncio.Task[RunCorrupted] | None = None

    async def __call__(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result, if it comes first.

        Raises:
            Canceled, JobTimeout, HandOver, LeaseLost: the job was told to stop; the coroutine is canceled.
            RunCorrupted: the watched run was marked corrupted; the coroutine is canceled.
        """
        if self._control.reason is not None:
            coroutine.close()
            raise stop_error(self._control.reason)
        if self._stop is None:
            self._stop = asyncio.create_task(self._control.wait())
        task = asyncio.create_task(coroutine)
        others = [other for other in (self._stop, self._watch) if other is not None]
        try:
            await asyncio.wait([task, *others], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            self._control.check()
            assert self._watch is not None
            raise self._watch.result()
        finally:
            await _end(task)

    def check(self) -> None:
        """Raise now if the job was told to stop."""
        self._control.check()

    async def watch(self, run: LiveRun, poll_interval_ms: int) -> None:
        """From now on, end a wait when the service marks this run corrupted."""
        await self.unwatch()
        self._watch = asyncio.create_task(run.watch(poll_interval_ms))

    async def unwatch(self) -> None:
        """Watch no run any more."""
        watch, self._watch = self._watch, None
        await _end(watch)

    async def close(self) -> None:
        """End everything that runs beside the job."""
        stop, self._stop = self._stop, None
        await _end(stop)
        await self.unwatch()


async def within(coroutine: Coroutine[Any, Any, T], deadline: "asyncio.Task[None]") -> T:
    """The coroutine's result, if it comes before the deadline's task is done.

    Raises:
        TimeoutError: the deadline came first; the coroutine is canceled.
    """
    task = asyncio.create_task(coroutine)
    try:
        await asyncio.wait([task, deadline], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise TimeoutError
    finally:
        await _end(task)


async def _end(task: asyncio.Task[Any] | None) -> None:
    if task is not None:
        task.cancel()
        # waits for the end without raising what the task raised: it is not the outcome any more
        await asyncio.gather(task, return_exceptions=True)
