"""The future of a request, for blocking and async callers."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Generator
from typing import Any, Final, Generic, TypeVar

from backends.tinkex.errors import BACKEND, WrongLoop
from crucible.errors import RequestTimeout

T = TypeVar("T")

THREAD_NAME: Final = "tinkex"
"""The name of the background thread, on which a blocking wait would deadlock."""


class ApiFuture(Generic[T]):
    """A pending result. It can be awaited any number of times; abandoning a wait cancels nothing."""

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
        """The server's ids of the accepted requests, one per chunk; empty before acceptance."""
        return [] if self._request_ids is None else self._request_ids()

    @property
    def request_id(self) -> str | None:
        """The first of ``request_ids``."""
        return next(iter(self.request_ids), None)

    def future(self) -> "concurrent.futures.Future[T]":
        """Return the standard future. Raises WrongLoop on a client of the caller's event loop, which has none."""
        if isinstance(self._inner, asyncio.Future):
            raise _wrong_loop()
        return self._inner

    def done(self) -> bool:
        """Return whether there is a result or an error."""
        return self._inner.done()

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` when there is a result or an error, in the thread that brings it about."""
        self._inner.add_done_callback(lambda _: callback())

    def cancel(self) -> bool:
        """Stop polling for the result. A training request is sent all the same, and takes effect at the server."""
        return self._inner.cancel()

    def result(self, timeout: float | None = None) -> T:
        """Block for the result, for at most ``timeout`` seconds.

        Raises:
            RequestTimeout: there is no result yet; call again to wait longer.
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
            raise _timed_out(timeout) from error

    async def result_async(self, timeout: float | None = None) -> T:
        """Await the result, for at most ``timeout`` seconds. Raises as ``result``."""
        try:
            async with asyncio.timeout(timeout):
                return await self
        except TimeoutError as error:
            raise _timed_out(timeout) from error

    def exception(self) -> BaseException | None:
        """Return the error of a finished request, or None. Raises RequestTimeout while it is pending."""
        if not self._inner.done():
            raise RequestTimeout("not done", backend=BACKEND)
        return self._inner.exception()

    def __await__(self) -> Generator[Any, None, T]:
        inner = self._inner
        awaitable = inner if isinstance(inner, asyncio.Future) else asyncio.wrap_future(inner)
        return asyncio.shield(awaitable).__await__()

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
        return threading.current_thread().name == THREAD_NAME


def _timed_out(timeout: float | None) -> RequestTimeout:
    return RequestTimeout(f"no result within {timeout} s", backend=BACKEND)


def _wrong_loop() -> WrongLoop:
    return WrongLoop("result() would block the event loop that computes the result; await it", backend=BACKEND)


def _mark_retrieved(inner: Any) -> None:
    """Retrieve the exception, so that asyncio does not log that of a pipelined request which nobody awaits."""
    if not inner.cancelled():
        inner.exception()
