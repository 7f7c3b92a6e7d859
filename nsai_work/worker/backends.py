"""The backends of a worker process: each opened once, on its event loop, and shared by all its jobs."""

import asyncio
from collections.abc import Mapping

from crucible.backend import Backend
from crucible.registry import backend_names, load_backend, why_unusable
from nsai_work.clock import Clock
from nsai_work.logs import get_logger

log = get_logger(__name__)


class BackendPool:
    """Backends by entry-point name.

    ``only_usable``: a backend that cannot be imported here, or whose packages are missing, is left to other
    workers; that is looked at once. Otherwise its jobs are taken, and fail with the reason. ``credentials`` names
    the account that is used at a backend; one that is not among them goes by the backend's own name.
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
        self._backing_off: dict[str, float] = {}

    def available(self) -> dict[str, str]:
        """The backends that jobs may be claimed for now, with the name of the account each uses.

        The first call imports them, which may take seconds: make it in a thread.
        """
        now = self._clock.monotonic()
        self._backing_off = {name: until for name, until in self._backing_off.items() if until > now}
        names = [name for name in backend_names() if name not in self._backing_off and self._is_usable(name)]
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
        """Take no jobs for a backend that does not answer, so that they go elsewhere or wait unharmed."""
        until = self._clock.monotonic() + seconds
        self._backing_off[name] = max(until, self._backing_off.get(name, 0.0))

    async def get(self, name: str) -> Backend:
        """The open backend of that name.

        Raises:
            UnknownBackend, PluginError, InvalidRequest: it cannot be made here; the next call tries again.
            BackendError: it could not be opened.
        """
        async with self._locks.setdefault(name, asyncio.Lock()):
            if name not in self._open:
                backend = load_backend(name)
                await backend.open()
                self._open[name] = backend
            return self._open[name]

    async def close(self) -> None:
        """Close all of them; one that fails to close is logged."""
        while self._open:
            name, backend = self._open.popitem()
            try:
                async with asyncio.timeout(5):
                    await backend.close()
            except Exception:
                log.exception("backend.close_failed", backend=name)
