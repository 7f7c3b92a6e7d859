"""The waits of a running job: the reason is a column while a wait lasts, and an event when it begins and ends."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from pydantic import JsonValue

from crucible.errors import CrucibleError
from crucible.runtime.waits import Wait, WaitCause
from nsai_work.clock import Clock
from nsai_work.store.journal.waits import WAIT_ENDED, WAIT_STARTED
from nsai_work.telemetry.job_events import wait_counts
from nsai_work.telemetry.logs import get_logger

log = get_logger(__name__)

SHOWN_AFTER_S: Final = 1.5
"""The duration from which a wait is shown: shorter ones are usual on any network."""
EVENT_INTERVAL_S: Final = 30.0
"""The minimum time between two events about waits of one job, and before one about an expected wait."""

Event: TypeAlias = tuple[str, dict[str, JsonValue]]


Write: TypeAlias = Callable[[str | None, Event | None], Awaitable[None]]
"""Stores the reason of a wait, None at its end, with an event if it is one."""


class AttemptWaits:
    """Observes the waits of one attempt, and stores the reason of the oldest one."""

    def __init__(
        self, write: Write, clock: Clock, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._write = write
        self._clock = clock
        self._sleep = sleep
        self._since: dict[Wait, float] = {}
        self._shown: str | None = None
        self._counted: WaitCause | None = None
        self._announced_at: float | None = None
        self._announced: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def report(self, wait: Wait) -> None:
        """Receive a wait that began, changed its reason, or ended. Called on the worker's event loop."""
        if self._closed:
            return
        if wait.reason is None:
            self._since.pop(wait, None)
        else:
            self._since.setdefault(wait, self._clock.monotonic())
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._follow())

    async def close(self) -> None:
        """Stop observing, and end the wait that is shown."""
        self._closed = True
        self._since.clear()
        self._count(None)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            with contextlib.suppress(CrucibleError):
                await self._show()

    async def _follow(self) -> None:
        """Store the reason and its changes until nothing waits and that is stored."""
        while self._since or self._shown is not None:
            await self._sleep(SHOWN_AFTER_S / 3)
            try:
                await self._show()
            except CrucibleError as error:
                # A lost lease or an unavailable store ends the attempt elsewhere.
                log.debug("wait.not_recorded", error=error.code)

    async def _show(self) -> None:
        now = self._clock.monotonic()
        oldest = min(self._since, key=lambda wait: (wait.expected, self._since[wait]), default=None)
        if oldest is not None and self._shown is None and now - self._since[oldest] < SHOWN_AFTER_S:
            return
        self._count(None if oldest is None else oldest.cause)
        reason = None if oldest is None else oldest.reason
        event = self._event(oldest, now)
        if reason != self._shown or event is not None:
            await self._write(reason, event)
            self._shown = reason
            if event is not None:
                self._announced, self._announced_at = reason, now

    def _count(self, cause: WaitCause | None) -> None:
        """Count this attempt as one that waits for a cause, or as one that does not."""
        if self._counted is not None:
            wait_counts.add("attempts", self._counted, -1)
        self._counted = cause
        if cause is not None:
            wait_counts.add("attempts", cause)

    def _event(self, wait: Wait | None, now: float) -> Event | None:
        if wait is None:
            if self._announced is None:
                return None
            return WAIT_ENDED, {"reason": self._announced}
        recent = self._announced_at is not None and now - self._announced_at < EVENT_INTERVAL_S
        early = wait.expected and now - self._since[wait] < EVENT_INTERVAL_S
        if wait.reason == self._announced or recent or early:
            return None
        return WAIT_STARTED, {"reason": wait.reason}
