"""Clients that are ready when they are returned, where the official SDK returns the future of one."""

from collections.abc import Generator
from typing import Any, Self


class ReadyClient:
    """The base of a client that can also be used as its own future."""

    def result(self, timeout: float | None = None) -> Self:
        """Return this client, which is ready: for callers that treat it as the future of a client."""
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        yield from ()
        return self
