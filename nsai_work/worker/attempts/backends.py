"""The backends of a worker process: each is opened once, on the event loop, and shared by all jobs."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from crucible.backend import Backend
from crucible.errors import CrucibleError, PluginError
from crucible.registry import backend_names, load_backend, why_unusable
from nsai_work.clock import Clock
from nsai_work.telemetry.logs import get_logger
from nsai_work.worker.declines import DECLINE_S, is_lacking_backend

log = get_logger(__name__)


CHECK_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class _Decline:
    error: CrucibleError
    until: float


class BackendPool:
    """Open backends by entry-point name.

    With ``only_usable``, jobs of a backend that cannot be used here (it cannot be imported, or lacks a package, a
    setting or a credential) stay queued for other workers. It is tried again every DECLINE_S, and ``on_usable`` is
    called when it can be used after all. Without ``only_usable``, such jobs are claimed and fail with the reason.
    ``credentials`` maps a backend to the name of the account used there, by default the backend's own name.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        only_usable: bool = True,
        credentials: Mapping[str, str] | None = None,
        on_usable: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._credentials = dict(credentials or {})
        self._only_usable = only_usable
        self._on_usable = on_usable
        self._imported: set[str] = set()
        self._declined: dict[str, _Decline] = {}
        self._open: dict[str, Backend] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._back_off_until: dict[str, float] = {}
        self._names: tuple[str, ...] = ()
        self._look_again_at = 0.0

    def available(self) -> dict[str, str]:
        """Return the backends for which jobs may be claimed now, each with the name of its account.

        The first call imports them, which may take seconds: call it in a thread.
        """
        now = self._clock.monotonic()
        self._back_off_until = {name: until for name, until in self._back_off_until.items() if until > now}
        if now >= self._look_again_at:
            # a look at each folder of sys.path, which every claim would pay
            self._names, self._look_again_at = backend_names(), now + CHECK_INTERVAL_S
        names = [name for name in self._names if name not in self._back_off_until and self._is_usable(name)]
        return {name: self._credentials.get(name, name) for name in names}

    def _is_usable(self, name: str) -> bool:
        if not self._only_usable:
            return True
        if name not in self._imported:
            reason = why_unusable(name)
            self._imported.add(name)
            if reason is not None:
                self._decline(name, PluginError(reason, backend=name))
        return name not in self._declined

    def declined(self) -> dict[str, str]:
        """Return the backends that cannot be used here now, each with the reason."""
        return {name: decline.error.message for name, decline in self._declined.items()}

    def _decline(self, name: str, error: CrucibleError) -> None:
        if name not in self._declined:
            # a missing package is normal, unlike a lack that a job has found
            level = logging.WARNING if name in self._locks else logging.INFO
            log.log(level, "backend.unusable", backend=name, reason=error.message)
        self._declined[name] = _Decline(error, self._clock.monotonic() + DECLINE_S)

    async def run_checks(self) -> None:
        """Try declined backends again when their time is over, forever."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            await self.check_declined()

    async def check_declined(self) -> None:
        """Try the declined backends again whose time is over."""
        now = self._clock.monotonic()
        for name in [name for name, decline in self._declined.items() if decline.until <= now]:
            reason = await asyncio.to_thread(why_unusable, name)
            if reason is not None:
                self._decline(name, PluginError(reason, backend=name))
            elif await self._can_be_opened(name):
                del self._declined[name]
                log.info("backend.usable", backend=name)
                self._on_usable()

    async def _can_be_opened(self, name: str) -> bool:
        if name not in self._locks:
            # no job has needed it yet
            return True
        try:
            await self._get(name)
        except CrucibleError as error:
            # any other error is shown by the next job
            return name not in self._declined or not is_lacking_backend(error)
        return True

    def back_off(self, name: str, seconds: float) -> None:
        """Claim no jobs for an unavailable backend: they stay queued, or run on another worker."""
        until = self._clock.monotonic() + seconds
        self._back_off_until[name] = max(until, self._back_off_until.get(name, 0.0))

    async def get(self, name: str) -> Backend:
        """Return a backend, opened on first use.

        Raises:
            UnknownBackend, PluginError, InvalidRequest, CredentialMissing: it cannot be used here. With
                ``only_usable`` it is declined from now on, and not tried again before DECLINE_S.
            BackendError: it could not be opened; the next call tries again.
        """
        if name in self._declined:
            raise self._declined[name].error.with_traceback(None)
        return await self._get(name)

    async def _get(self, name: str) -> Backend:
        async with self._locks.setdefault(name, asyncio.Lock()):
            if name not in self._open:
                try:
                    # in a thread: its plug-in is imported, and a setting may be read from a file
                    backend = await asyncio.to_thread(load_backend, name)
                    await backend.open()
                except CrucibleError as error:
                    if self._only_usable and is_lacking_backend(error):
                        self._decline(name, error)
                    raise
                self._open[name] = backend
            return self._open[name]

    async def close(self) -> None:
        """Close all open backends. A failure to close is logged."""
        while self._open:
            name, backend = self._open.popitem()
            try:
                async with asyncio.timeout(5):
                    await backend.close()
            except Exception:
                log.exception("backend.close_failed", backend=name)
