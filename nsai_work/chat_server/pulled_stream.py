"""The events of a stream, pulled by a task of their own, and passed on with a bound."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from crucible.stream import StreamEvent

MAX_PENDING: Final = 64


class PulledStream:
    """Pulls the events of a backend's stream in one task, whichever tasks read them, and until it is closed.

    An async generator must not be resumed by different tasks: a time limit inside it belongs to one.
    """

    def __init__(self, events: AsyncIterator[StreamEvent]) -> None:
        self._queue: asyncio.Queue[StreamEvent | None] = asyncio.Queue(MAX_PENDING)
        self._task = asyncio.create_task(self._pull(events))

    async def _pull(self, events: AsyncIterator[StreamEvent]) -> None:
        try:
            async for event in events:
                await self._queue.put(event)
        finally:
            # a reader that waits must see the end; one that is gone does not empty the queue
            with contextlib.suppress(asyncio.QueueFull):
                self._queue.put_nowait(None)

    async def next(self) -> StreamEvent | None:
        """Return the next event, None after the last. Raises what the stream raises."""
        if self._task.done() and self._queue.empty():
            await self._task
            return None
        event = await self._queue.get()
        if event is None:
            await self._task
        return event

    async def close(self) -> None:
        """End the stream. May be called twice."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
