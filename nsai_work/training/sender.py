"""Background sender of journaled operations, in order.

Over a network with latency, sending dominates: two round trips a step. So sends follow each other without a gap,
while the driver journals and records other steps.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from crucible.training import LiveRun, Prepared
from nsai_work.training.in_flight import InFlight

ACCEPTANCE_GRACE_S: Final = 5.0
"""The time for which an orderly stop waits for the current send to be accepted."""


class Sender:
    """Sends the unsent operations of one remote run. ``entries``: the operations in flight, oldest first; the
    caller may change them at any time."""

    def __init__(self, run: LiveRun, entries: Iterable[InFlight]) -> None:
        self._run = run
        self._entries = entries
        self._task: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()
        self._stopping = False

    def start(self) -> None:
        """Send all unsent operations in the background, unless that is already running.

        Raises:
            CrucibleError: an earlier send failed. ``stop`` clears the error.
        """
        if self._task is not None and self._task.done():
            self._task.result()
            self._task = None
        if self._task is None and self._next() is not None:
            self._task = asyncio.create_task(self._send())

    async def sent(self, entry: InFlight) -> None:
        """Wait until the service has accepted an entry. Raises as ``start``."""
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
        """Stop at once. A send in progress is canceled and stays marked unsent; it may have arrived nonetheless."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def stop_orderly(self) -> None:
        """Stop as ``stop`` does. If the service would execute a repeat again, first wait up to
        ``ACCEPTANCE_GRACE_S`` for the send in progress, because an unknown effect costs the run."""
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
