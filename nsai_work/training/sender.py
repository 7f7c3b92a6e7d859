"""Background sender of journaled operations, in order.

Over a network with latency, sending dominates: two round trips a step. So sends follow each other without a gap,
while the driver journals and records other steps. Where the service runs operations by their sequence numbers, they
do not wait for each other's acceptance either.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from crucible.training import LiveRun, Prepared
from nsai_work.training.in_flight import InFlight

ACCEPTANCE_GRACE_S: Final = 5.0
"""The time for which an orderly stop waits for the current send to be accepted."""
WINDOW: Final = 16
"""The maximum number of operations that wait for their acceptance, where they need not wait for each other's."""


class Sender:
    """Sends the unsent operations of one remote run. ``entries``: the operations in flight, oldest first; the
    caller may change them at any time.

    At most ``WINDOW`` operations are being sent if ``RunFeatures.sends_ahead``, else one. After a ``stop`` the
    first is sent alone: it may be the one that the service is missing.
    """

    def __init__(self, run: LiveRun, entries: Iterable[InFlight]) -> None:
        self._run = run
        self._entries = entries
        self._sending: dict[int, asyncio.Task[None]] = {}
        """The sends in progress, by the identity of their entries."""
        self._failure: BaseException | None = None
        self._moved = asyncio.Event()
        self._stopping = False
        self._is_open = False
        self.left_hole = False
        """A send has failed while operations behind it had been sent."""

    def start(self) -> None:
        """Send all unsent operations in the background, as far as they may be sent now.

        Raises:
            CrucibleError: an earlier send failed. ``stop`` clears the error.
        """
        if self._failure is not None:
            raise self._failure
        if self._stopping:
            return
        width = WINDOW if self._is_open and self._run.features.sends_ahead else 1
        for entry in self._entries:
            if len(self._sending) >= width:
                break
            if entry.unsent and id(entry) not in self._sending:
                self._sending[id(entry)] = asyncio.create_task(self._send(entry))

    async def sent(self, entry: InFlight) -> None:
        """Wait until the service has accepted an entry. Raises as ``start``."""
        while entry.unsent:
            self.start()
            self._moved.clear()
            await self._moved.wait()

    async def stop(self) -> None:
        """Stop at once. A send in progress is canceled and stays marked unsent; it may have arrived nonetheless."""
        self._stopping = True
        tasks = list(self._sending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._sending.clear()
        self._failure = None
        self._is_open = self._stopping = False

    async def stop_orderly(self) -> None:
        """Stop as ``stop`` does. If the service would execute a repeat again, first wait up to
        ``ACCEPTANCE_GRACE_S`` for the send in progress, because an unknown effect costs the run."""
        if self._sending and self._run.features.replays is not True:
            self._stopping = True
            await asyncio.wait(self._sending.values(), timeout=ACCEPTANCE_GRACE_S)
        await self.stop()

    async def _send(self, entry: InFlight) -> None:
        prepared: Prepared[Any] | None = entry.prepared
        assert prepared is not None
        try:
            entry.pending = await self._run.send(prepared)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._failure = self._failure or error
            self.left_hole = self.left_hole or self._has_sent_behind(entry)
        finally:
            self._sending.pop(id(entry), None)
            self._moved.set()
        if self._failure is None:
            self._is_open = True
            self.start()

    def _has_sent_behind(self, entry: InFlight) -> bool:
        entries = list(self._entries)
        behind = entries[next(place for place, other in enumerate(entries) if other is entry) + 1 :]
        return any(other.pending is not None or id(other) in self._sending for other in behind)
