"""The result of a request, to be waited for in blocking code or awaited."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from backends.tinkex.errors import WrongLoop
from crucible.errors import RequestTimeout

T = TypeVar("T")


class ApiFuture(Generic[T]):
    """A result that is on its way. Waiting twice gives the same result; giving up waiting cancels nothing."""

    def __init__(
        self,
        inner: "asyncio.Future[T] | concurrent.futures.Future[T]",
        request_ids: Callable[[], list[str]] | None = None,
    ) -> None:
        self._inner = inner
        self._request_ids = request_ids
        inner.add_done_callback(_mark_retrieved)

    @property
    def request_ids(self) -> list[str]:
        """The server's ids of the accepted requests behind this (one for each chunk); empty before acceptance."""
        return [] if self._request_ids is None else self._request_ids()

    @property
    def request_id(self) -> str | None:
        """The first of ``request_ids``."""
        return next(iter(self.request_ids), None)

    def done(self) -> bool:
        """Whether there is a result or an error."""
        return self._inner.done()

    def cancel(self) -> bool:
        """Stop waiting for the server. What it has accepted still takes effect there."""
        return self._inner.cancel()

    def result(self, timeout: float | None = None) -> T:
        """Block for the result, at most ``timeout`` seconds.

        Raises:
            RequestTimeout: it did not come in time; it may be waited for again.
            CrucibleError: the request failed.
        """
        if isinstance(self._inner, asyncio.Future):
            return self._result_on_loop()
        if self._would_deadlock():
            raise _wrong_loop()
        try:
            return self._inner.result(timeout)
        except TimeoutError as error:
            if self._inner.done():
                raise
            raise RequestTimeout(f"no result within {timeout} s", backend="tinkex") from error

    async def result_async(self, timeout: float | None = None) -> T:
        """Await the result, at most ``timeout`` seconds. Raises as ``result``."""
        try:
            async with asyncio.timeout(timeout):
                return await self
        except TimeoutError as error:
            raise RequestTimeout(f"no result within {timeout} s", backend="tinkex") from error

    def exception(self) -> BaseException | None:
        """The error of a request that is done, or None. Raises RequestTimeout while it is not done."""
        if not self._inner.done():
            raise RequestTimeout("not done", backend="tinkex")
        return self._inner.exception()

    def __await__(self) -> Generator[Any, None, T]:
        inner = self._inner
        waited = inner if isinstance(inner, asyncio.Future) else asyncio.wrap_future(inner)
        return asyncio.shield(waited).__await__()

    def _result_on_loop(self) -> T:
        if self._inner.done():
            return self._inner.result()
        raise _wrong_loop()

    def _would_deadlock(self) -> bool:
        if self._inner.done():
            return False
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return False
        return threading.current_thread().name == "tinkex"


def _wrong_loop() -> WrongLoop:
    return WrongLoop("result() would block the event loop that makes the result; await it", backend="tinkex")


def _mark_retrieved(inner: Any) -> None:
    """A pipelined request whose error nobody asks for is not an error of the program."""
    if not inner.cancelled():
        inner.exception()
