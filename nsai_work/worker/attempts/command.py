"""Runs a command job: executes the command and records its progress as events."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, Self, TypeAlias

from pydantic import JsonValue

from crucible.backend import CommandBackend, CommandCall, CommandProgress
from crucible.errors import CrucibleError
from crucible.runtime.checked_calls import checked_command
from nsai_work.payloads import CommandPayload
from nsai_work.telemetry.logs import get_logger

EmitEvent: TypeAlias = Callable[[str, dict[str, JsonValue]], Awaitable[None]]

log = get_logger(__name__)

PROGRESS_INTERVAL_S: Final = 0.25


async def run_command(
    payload: CommandPayload,
    backend: CommandBackend,
    *,
    job_id: str,
    attempt: int,
    event: EmitEvent,
    owned_for_s: Callable[[], float],
) -> dict[str, JsonValue]:
    """Run the command and return its result. On a stop request, the caller cancels the task.

    ``owned_for_s`` is that of ``CommandCall``.

    Raises:
        InvalidRequest: the command, an argument or an option is invalid.
        MalformedAnswer: the result is not a JSON object.
        Exception: an error of the command, unchanged.
    """
    async with ProgressRecorder(event) as progress:
        call = CommandCall(job_id=job_id, attempt=attempt, report=progress.report, owned_for_s=owned_for_s)
        return await checked_command(backend, payload.to_command(), call)


class ProgressRecorder:
    """Records progress as ``command.progress`` events, at most one per ``PROGRESS_INTERVAL_S``.

    A report that is not recorded when the next arrives is replaced by it; the last one is always recorded.
    """

    def __init__(self, event: EmitEvent) -> None:
        self._event = event
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self._latest: CommandProgress | None = None
        self._reported = False
        self._ended = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        return self

    async def __aexit__(self, *_: object) -> None:
        # most commands report nothing, and then there is nothing to end
        if self._reported:
            await self._finish()
        self._ended = True

    async def _finish(self) -> None:
        # a report that another thread has just made is accepted first
        await asyncio.sleep(0)
        async with self._writing:
            if self._task is not None:
                self._task.cancel()
        if self._task is not None:
            await asyncio.wait({self._task})
        await self._write()

    def report(self, progress: CommandProgress) -> None:
        """Replace the latest report. Thread-safe; ignored once the event loop is closed."""
        self._reported = True
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._accept, progress)

    async def _run(self) -> None:
        while True:
            await self._changed.wait()
            await self._write()
            await asyncio.sleep(PROGRESS_INTERVAL_S)

    async def _write(self) -> None:
        """Record the latest report, unless it is recorded already. A failure of the store is logged."""
        async with self._writing:
            progress, self._latest = self._latest, None
            self._changed.clear()
            if progress is None:
                return
            try:
                await self._event("command.progress", progress.model_dump(mode="json"))
            except CrucibleError as error:
                log.warning("command.progress_not_recorded", error=error.code)

    def _accept(self, progress: CommandProgress) -> None:
        if self._ended:
            return
        self._latest = progress
        self._changed.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run())
