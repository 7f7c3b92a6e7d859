"""Awaiting a coroutine with early exits: a stop request, a run marked corrupted, or a deadline."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from crucible.errors import RunCorrupted
from crucible.training import LiveRun
from nsai_work.concurrency.control import Control, stop_error

T = TypeVar("T")


class Awaiter(Protocol):
    """Awaits a coroutine, but may raise before it is done."""

    async def __call__(self, coroutine: Coroutine[Any, Any, T], /) -> T: ...


class InterruptibleAwaiter:
    """Awaits coroutines on behalf of an attempt, until its ``Control`` requests a stop or the watched run is
    corrupted.

    Call ``close`` at the end of the attempt.
    """

    def __init__(self, control: Control) -> None:
        self._control = control
        self._stop: asyncio.Task[Any] | None = None
        self._watch: asyncio.Task[RunCorrupted] | None = None

    async def __call__(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return the coroutine's result, if it is done first.

        Raises:
            Canceled, JobTimeout, HandOver, LeaseLost: a stop was requested; the coroutine is canceled.
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
        """Raise if a stop was requested."""
        self._control.check()

    async def watch(self, run: LiveRun, poll_interval_ms: int) -> None:
        """Watch a run instead of the previous one. Calls raise ``RunCorrupted`` once the service marks it
        corrupted."""
        await self.unwatch()
        self._watch = asyncio.create_task(run.watch(poll_interval_ms))

    async def unwatch(self) -> None:
        """Stop watching the run, if any."""
        watch, self._watch = self._watch, None
        await _end(watch)

    async def close(self) -> None:
        """Cancel the background tasks."""
        stop, self._stop = self._stop, None
        await _end(stop)
        await self.unwatch()


async def within(coroutine: Coroutine[Any, Any, T], deadline: "asyncio.Task[None]") -> T:
    """Return the coroutine's result, if it is done before the ``deadline`` task.

    Raises:
        TimeoutError: the deadline passed first; the coroutine is canceled.
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
        # awaits the task without raising its error, which no longer matters
        await asyncio.gather(task, return_exceptions=True)
