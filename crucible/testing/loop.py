"""A runner of test coroutines with an opened backend, each on a new event loop."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from crucible.backend import Backend

B = TypeVar("B", bound=Backend)
T = TypeVar("T")

DEADLINE_S = 60.0


def run_opened(backend: B, body: Callable[[B], Awaitable[T]]) -> T:
    """Open the backend and return the result of ``body``. A test that hangs fails after ``DEADLINE_S``."""

    async def run() -> T:
        async with asyncio.timeout(DEADLINE_S), backend:
            return await body(backend)

    return asyncio.run(run())
