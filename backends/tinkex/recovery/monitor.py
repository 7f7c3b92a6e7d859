"""``RecoveryMonitor``: polls the service and hands a corrupted run over to its recovery, once."""

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Protocol, Self

from pydantic import JsonValue

from backends.tinkex.errors import BACKEND
from crucible.errors import CallerError, CrucibleError
from crucible.recovery import Announcer, RecoveryEventName, RecoveryObserver, RecoveryPolicy

IsCorrupted = Callable[[str], Awaitable[bool]]
"""Queries the service whether the run of that id is corrupted. Raises CrucibleError when the query fails."""

Sleep = Callable[[float], Awaitable[object]]

_log = logging.getLogger(__name__)

_MAX_CONCURRENT_POLLS: Final = 16


class CorruptionHandler(Protocol):
    """The recipient of a corrupted run: a ``RecoveryExecutor``, or any object with this method."""

    def take_over(self, run_id: str, client: Any, reason: str) -> Awaitable[None] | None:
        """Recover the run in the background; must not block."""


class RecoveryMonitor:
    """Polls the service for the runs on its watch list.

    ``async with monitor:`` polls every ``policy.poll_interval_ms`` until the block ends (not at all when the policy
    is not enabled, which ``disabled`` reports); ``poll`` polls every run once. A corrupted run leaves the list when
    it is handed over. After any failure of a poll, which ``poll_error`` reports, or of the handler, which
    ``callback_failed`` reports, the run stays on the list and is polled again.
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
        self._announce = Announcer(BACKEND, observe)
        self._sleep = sleep
        self._watched: dict[str, Any] = {}
        self._polling: asyncio.Task[None] | None = None

    @property
    def watched(self) -> frozenset[str]:
        """The ids of the runs on the watch list."""
        return frozenset(self._watched)

    def monitor_run(self, run_id: str, client: Any = None) -> None:
        """Add a run to the list; ``client`` is handed over with it, and replaces that of a run already listed."""
        if not run_id:
            raise CallerError("run_id: it must not be empty", backend=BACKEND)
        self._watched[run_id] = client

    def stop_monitoring(self, run_id: str) -> bool:
        """Remove a run from the list; return whether it was listed."""
        if run_id not in self._watched:
            return False
        del self._watched[run_id]
        return True

    async def poll(self) -> None:
        """Poll every run once, with bounded concurrency."""
        limit = asyncio.Semaphore(_MAX_CONCURRENT_POLLS)

        async def poll_within_limit(run_id: str) -> None:
            async with limit:
                await self._poll_run(run_id)

        async with asyncio.TaskGroup() as group:
            for run_id in list(self._watched):
                group.create_task(poll_within_limit(run_id))

    async def run(self) -> None:
        """Poll until the call is cancelled."""
        try:
            while True:
                await self._sleep(self._policy.poll_interval_ms / 1000)
                await self.poll()
        except Exception as error:
            _log.exception("the recovery monitor stopped")
            for run_id in self.watched:
                await self._report(RecoveryEventName.POLL_ERROR, run_id, error, "the monitor stopped: ")
            raise

    async def __aenter__(self) -> Self:
        if not self._policy.enabled:
            _log.warning("recovery is not enabled, so runs are not polled; set enabled=True in the policy")
            for run_id in self.watched:
                await self._announce(RecoveryEventName.DISABLED, run_id)
        elif self._polling is None:
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

    async def _poll_run(self, run_id: str) -> None:
        try:
            corrupted = await self._is_corrupted(run_id)
        except Exception as error:
            await self._report(RecoveryEventName.POLL_ERROR, run_id, error)
            return
        # it may have been removed from the list during the request
        if not corrupted or run_id not in self._watched:
            return
        client = self._watched.pop(run_id)
        await self._announce(RecoveryEventName.DETECTED, run_id, detected_by="flag")
        try:
            answer = self._handler.take_over(run_id, client, "the service marks the run corrupted")
            if inspect.isawaitable(answer):
                await answer
        except Exception as error:
            self._watched.setdefault(run_id, client)
            await self._report(RecoveryEventName.CALLBACK_FAILED, run_id, error, callback="take_over")

    async def _report(
        self, name: RecoveryEventName, run_id: str, error: Exception, prefix: str = "", **details: JsonValue
    ) -> None:
        if isinstance(error, CrucibleError):
            await self._announce(name, run_id, code=error.code, reason=f"{prefix}{error}", **details)
        else:
            reason = f"{prefix}{type(error).__name__}: {error}"
            await self._announce(name, run_id, code=CrucibleError.code, reason=reason, **details)
