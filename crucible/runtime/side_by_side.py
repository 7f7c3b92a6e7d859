"""Concurrent calls whose results are wanted in their order."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


async def side_by_side(calls: Iterable[Callable[[], Awaitable[T]]], *, limit: int = 8) -> list[T]:
    """Make the calls, at most ``limit`` at a time and in their order; return their results in their order.

    The error of the first call that failed, in their order, is raised once those before it are done. Then, and when
    this call is canceled, the others are canceled.
    """
    free = asyncio.Semaphore(limit)

    async def made(call: Callable[[], Awaitable[T]]) -> T:
        async with free:
            return await call()

    tasks = [asyncio.create_task(made(call)) for call in calls]
    try:
        return [await task for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        # awaits them without raising their errors, which no longer matter
        await asyncio.gather(*tasks, return_exceptions=True)
