"""The SDK's futures: results for blocking and async callers."""

import asyncio
import concurrent.futures
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar

from backends.tinkex.client.requests.runner import Runner
from backends.tinkex.compat.errors import translated
from crucible.errors import CrucibleError

T = TypeVar("T")
S = TypeVar("S")


class APIFuture(ABC, Generic[T]):
    """A pending result: ``result(timeout)``, or ``await``."""

    @abstractmethod
    def future(self) -> "concurrent.futures.Future[T]":
        """Return the standard future of the result."""

    def result(self, timeout: float | None = None) -> T:
        """Block for the result. Raises TimeoutError after ``timeout`` seconds, and TinkerError."""
        return self.future().result(timeout)

    async def result_async(self, timeout: float | None = None) -> T:
        """Await the result. Raises as ``result``."""
        async with asyncio.timeout(timeout):
            return await asyncio.wrap_future(self.future())

    async def coroutine(self) -> T:
        """Return the result as a coroutine, for ``asyncio.create_task``."""
        return await self

    def __await__(self) -> Generator[Any, None, T]:
        return self.result_async().__await__()


class ConvertedResult(APIFuture[T]):
    """A result that is computed on the client's event loop."""

    def __init__(self, future: "concurrent.futures.Future[T]") -> None:
        self._future = future

    def future(self) -> "concurrent.futures.Future[T]":
        """Return the standard future of the result."""
        return self._future


def pending(
    runner: Runner,
    work: Awaitable[S],
    convert: Callable[[S], T],
    translate: Callable[[CrucibleError], Exception] = translated,
) -> ConvertedResult[T]:
    """Return the future of a converted result, with the SDK's errors."""

    async def converted() -> T:
        try:
            return convert(await work)
        except CrucibleError as error:
            raise translate(error) from error

    return ConvertedResult(runner.start(converted()).future())


def same(value: T) -> T:
    """Return the value: the conversion of results that need none."""
    return value
