"""Sends what is journaled, in its order, while the driver journals and records other steps.

On a line with latency the sends are what takes time: two round trips a step. So they follow each other without a
gap, and everything else is done meanwhile.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from crucible.training import LiveRun, Prepared
from nsai_work.training.in_flight import InFlight

ACCEPTANCE_GRACE_S: Final = 5.0
"""How long a send that is under way may still take when no more are wanted."""


class Sender:
    """One per remote run. ``entries`` is what is under way, the oldest first; it may change at any time."""

    def __init__(self, run: LiveRun, entries: Iterable[InFlight]) -> None:
        self._run = run
        self._entries = entries
        self._task: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()
        self._stopping = False

    def start(self) -> None:
        """See to it that whatever is unsent gets sent.

        Raises:
            CrucibleError: an earlier send failed. ``stop`` forgets it.
        """
        if self._task is not None and self._task.done():
            self._task.result()
            self._task = None
        if self._task is None and self._next() is not None:
            self._task = asyncio.create_task(self._send())

    async def sent(self, entry: InFlight) -> None:
        """Return once this entry has been accepted. Raises as ``start``."""
        while entry.unsent:
            self.start()
            assert self._task is not None
            self._moved.clear()
            moved = asyncio.create_task(self._moved.wait())
            try:
                await asyncio.wait({self._task, moved}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                moved.cancel()

    async def stop(self) -> None:
        """Send no more, at once. Whether what was just being sent arrived is not known: it counts as unsent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def stop_orderly(self) -> None:
        """As ``stop``; but where a repeat would run twice, not to know costs the run, so what is just being sent
        gets a while to be accepted."""
        if self._task is not None and self._run.features.replays is not True:
            self._stopping = True
            try:
                await asyncio.wait({self._task}, timeout=ACCEPTANCE_GRACE_S)
            finally:
                self._stopping = False
        await self.stop()

    def _next(self) -> InFlight | None:
        return next((entry for entry in self._entries if entry.unsent), None)

    async def _send(self) -> None:
        while not self._stopping and (entry := self._next()) is not None:
            prepared: Prepared[Any] | None = entry.prepared
            assert prepared is not None
            entry.pending = await self._run.send(prepared)
            self._moved.set()
