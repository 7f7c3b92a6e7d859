"""A client that is being made, as a future."""

import concurrent.futures
from typing import TypeVar

from backends.tinkex.compat.futures import APIFuture

C = TypeVar("C")


class ClientFuture(APIFuture[C]):
    """A client that is being made: await it, or take its ``result()``."""

    def __init__(self, future: "concurrent.futures.Future[C]") -> None:
        self._future = future

    def future(self) -> "concurrent.futures.Future[C]":
        """Return the standard future of the client."""
        return self._future
