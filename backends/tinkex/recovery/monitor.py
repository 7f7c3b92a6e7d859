"""Watching runs: one that the service marks corrupted is handed over, once."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Protocol, Self

from backends.tinkex.recovery.announcer import Announcer
from crucible.errors import CallerError, CrucibleError
from crucible.recovery import RecoveryEventName, RecoveryObserver, RecoveryPolicy

IsCorrupted = Callable[[str], Awaitable[bool]]
"""Asks the service whether the run of that id is corrupted; raises CrucibleError when it cannot be asked."""

Sleep = Callable[[float], Awaitable[object]]

_AT_ONCE: Final = 16


class CorruptionHandler(Protocol):
    """What a corrupted run is handed to: a ``RecoveryExecutor``, or anything with this method."""

    def take_over(self, run_id: str, client: Any, reason: str) -> None:
        """Recover the run in the background; must not block."""


class RecoveryMonitor:
    """Polls the service for the runs on its watch list.

    ``async with monitor:`` polls every ``policy.poll_interval_ms`` until the block ends (not at all when the policy
    is not enabled); ``poll`` makes one round. A run seen corrupted leaves the list as it is handed over. A poll
    that fails keeps its run and says so (``poll_error``).
    """

    def __init__(
        self,
        is_corrupted: IsCorrupted,
        handler: CorruptionHandler,
        *,
        policy: RecoveryPolicy,
        observe: RecoveryObserver | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._is_corrupted = is_corrupted
        self._handler = handler
        self._policy = policy
        self._say = Announcer(observe)
        self._sleep = sleep
        self._watched: dict[str, Any] = {}
        self._polling: asyncio.Task[None] | None = None

    @property
    def watched(self) -> frozenset[str]:
        """The ids of the runs on the watch list."""
        return frozenset(self._watched)

    def monitor_run(self, run_id: str, client: Any = None) -> None:
        """Put a run on the list; ``client`` is handed over with it. A run that is on it gets the new client."""
        if not run_id:
            raise CallerError("run_id: it must not be empty", backend="tinkex")
        self._watched[run_id] = client

    def stop_monitoring(self, run_id: str) -> bool:
        """Take a run off the list; says whether it was on it."""
        if run_id not in self._watched:
            return False
        del self._watched[run_id]
        return True

    async def poll(self) -> None:
        """Ask for every run once, some at a time."""
        limit = asyncio.Semaphore(_AT_ONCE)

        async def ask(run_id: str) -> None:
            async with limit:
                await self._poll_one(run_id)

        async with asyncio.TaskGroup() as group:
            for run_id in list(self._watched):
                group.create_task(ask(run_id))

    async def run(self) -> None:
        """Poll for ever. Cancel the call to stop."""
        while True:
            await self._sleep(self._policy.poll_interval_ms / 1000)
            await self.poll()

    async def __aenter__(self) -> Self:
        if self._policy.enabled and self._polling is None:
            self._polling = asyncio.create_task(self.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        polling, self._polling = self._polling, None
        if polling is not None:
            polling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await polling

    async def _poll_one(self, run_id: str) -> None:
        try:
            corrupted = await self._is_corrupted(run_id)
        except CrucibleError as error:
            await self._say(RecoveryEventName.POLL_ERROR, run_id, code=error.code, reason=str(error))
            return
        # It may have been taken off the list while the answer was on its way.
        if corrupted and run_id in self._watched:
            client = self._watched.pop(run_id)
            await self._say(RecoveryEventName.DETECTED, run_id, detected_by="flag")
            self._handler.take_over(run_id, client, "the service marks the run corrupted")
