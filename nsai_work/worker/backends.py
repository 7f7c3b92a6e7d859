"""The backends of a worker process: each is opened once, on the event loop, and shared by all jobs."""

import asyncio
from collections.abc import Mapping

from crucible.backend import Backend
from crucible.registry import backend_names, load_backend, why_unusable
from nsai_work.clock import Clock
from nsai_work.logs import get_logger

log = get_logger(__name__)


class BackendPool:
    """Open backends by entry-point name.

    With ``only_usable``, jobs of a backend that cannot be imported here, or whose packages are missing, stay queued
    for other workers; that is checked once per backend. Without it, such jobs are claimed and fail with the reason.
    ``credentials`` maps a backend to the name of the account used there, by default the backend's own name.
    """

    def __init__(
        self, clock: Clock, *, only_usable: bool = True, credentials: Mapping[str, str] | None = None
    ) -> None:
        self._clock = clock
        self._credentials = dict(credentials or {})
        self._only_usable = only_usable
        self._usable: dict[str, bool] = {}
        self._open: dict[str, Backend] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._back_off_until: dict[str, float] = {}

    def available(self) -> dict[str, str]:
        """Return the backends for which jobs may be claimed now, each with the name of its account.

        The first call imports them, which may take seconds: call it in a thread.
        """
        now = self._clock.monotonic()
        self._back_off_until = {name: until for name, until in self._back_off_until.items() if until > now}
        names = [name for name in backend_names() if name not in self._back_off_until and self._is_usable(name)]
        return {name: self._credentials.get(name, name) for name in names}

    def _is_usable(self, name: str) -> bool:
        if not self._only_usable:
            return True
        if name not in self._usable:
            reason = why_unusable(name)
            self._usable[name] = reason is None
            if reason is not None:
                log.info("backend.unusable", backend=name, reason=reason)
        return self._usable[name]

    def back_off(self, name: str, seconds: float) -> None:
        """Claim no jobs for an unavailable backend: they stay queued, or run on another worker."""
        until = self._clock.monotonic() + seconds
        self._back_off_until[name] = max(until, self._back_off_until.get(name, 0.0))

    async def get(self, name: str) -> Backend:
        """Return a backend, opened on first use.

        Raises:
            UnknownBackend, PluginError, InvalidRequest: it cannot be created here; the next call tries again.
            BackendError: it could not be opened.
        """
        async with self._locks.setdefault(name, asyncio.Lock()):
            if name not in self._open:
                backend = load_backend(name)
                await backend.open()
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
