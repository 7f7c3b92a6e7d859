"""A short-lived cache of a service's capabilities."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from backends.tinkex.client.service import ServiceClient
from backends.tinkex.errors import BACKEND
from backends.tinkex.types.server_capabilities import ServerCapabilities
from crucible.errors import BackendUnavailable, CrucibleError
from crucible.rendering.tokenizer import ChatFeatures, Tokenizer
from crucible.runtime.waits import remembered

_MAX_AGE_S: Final = 30.0


class CapabilityCache:
    """Caches a service's capabilities and the template features of its first model for 30 s each.

    ``timeout_s`` bounds each request, since callers wait interactively.
    """

    def __init__(self, service: ServiceClient, *, timeout_s: float) -> None:
        self._service = service
        self._timeout_s = timeout_s
        self._lock = asyncio.Lock()
        self._capabilities: tuple[float, ServerCapabilities] | None = None
        self._features: dict[str, tuple[float, ChatFeatures]] = {}

    async def capabilities(self) -> ServerCapabilities:
        """Return the service's capabilities. Raises BackendUnavailable after ``timeout_s``."""
        async with self._lock:
            if self._capabilities is None or _is_stale(self._capabilities[0]):
                self._capabilities = (time.monotonic(), await self.fetch())
            return self._capabilities[1]

    async def fetch(self) -> ServerCapabilities:
        """Return the service's capabilities without the cache. Raises BackendUnavailable after ``timeout_s``."""
        with remembered() as last:
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await self._service.get_server_capabilities()
            except TimeoutError as error:
                server, reason = self._service.connection.server, f": {last.text}" if last.text else ""
                raise BackendUnavailable(
                    f"no response from {server} within {self._timeout_s:g} s{reason}", backend=BACKEND
                ) from error

    async def default_features(self, tokenizer_of: Callable[[str], Awaitable[Tokenizer]]) -> ChatFeatures:
        """Return the template features of the first model; none when its tokenizer cannot be loaded in time."""
        name = next(iter((await self.capabilities()).model_names), None)
        if name is None:
            return ChatFeatures()
        known = self._features.get(name)
        if known is None or _is_stale(known[0]):
            try:
                async with asyncio.timeout(self._timeout_s):
                    features = (await tokenizer_of(name)).features
            except (CrucibleError, TimeoutError):
                features = ChatFeatures()
            known = self._features[name] = (time.monotonic(), features)
        return known[1]


def _is_stale(fetched_at: float) -> bool:
    return time.monotonic() - fetched_at > _MAX_AGE_S
