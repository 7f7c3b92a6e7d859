"""Running a test's coroutine on a fresh event loop, with the backend opened around it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from crucible.backend import Backend

B = TypeVar("B", bound=Backend)
T = TypeVar("T")

DEADLINE_S = 60.0


def run_opened(backend: B, body: Callable[[B], Awaitable[T]]) -> T:
    """What ``body`` returns for the opened backend. A test that hangs fails after ``DEADLINE_S``."""

    async def opened() -> T:
        async with asyncio.timeout(DEADLINE_S), backend:
            return await body(backend)

    return asyncio.run(opened())
