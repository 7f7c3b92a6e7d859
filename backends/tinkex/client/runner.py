"""Where coroutines run: on the caller's event loop, or on one background loop for blocking callers."""

import asyncio
import concurrent.futures
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from backends.tinkex.client.api_future import ApiFuture
from backends.tinkex.errors import WrongLoop
from crucible.forks import reset_after_fork

T = TypeVar("T")


class Runner(ABC):
    """Starts coroutines in the order of the calls."""

    @abstractmethod
    def start(
        self, work: Coroutine[Any, Any, T], *, request_ids: Callable[[], list[str]] | None = None
    ) -> ApiFuture[T]:
        """Begin, and return at once."""

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Begin, and block until it is done. Raises WrongLoop on an event loop that would wait for itself."""
        return self.start(work).result()


class CallerLoop(Runner):
    """Runs on the event loop that makes the call: no thread, any number of runs."""

    def start(
        self, work: Coroutine[Any, Any, T], *, request_ids: Callable[[], list[str]] | None = None
    ) -> ApiFuture[T]:
        try:
            task = asyncio.get_running_loop().create_task(work)
        except RuntimeError:
            work.close()
            raise WrongLoop(
                "this client runs on its caller's event loop, and there is none here; "
                "use ServiceClient(...) for blocking code",
                backend="tinkex",
            ) from None
        return ApiFuture(task, request_ids)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        work.close()
        raise WrongLoop(
            "a blocking call on a client of the caller's event loop; await the method ending in _async",
            backend="tinkex",
        )


class BackgroundLoop(Runner):
    """Runs on one daemon thread with its own loop, made on first use. A forked child makes its own."""

    def __init__(self) -> None:
        self._reset()

    def start(
        self, work: Coroutine[Any, Any, T], *, request_ids: Callable[[], list[str]] | None = None
    ) -> ApiFuture[T]:
        future: concurrent.futures.Future[T] = asyncio.run_coroutine_threadsafe(work, self._running())
        return ApiFuture(future, request_ids)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                reset_after_fork(self._reset)
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="tinkex", daemon=True).start()
            return self._loop


_SHARED: Final = BackgroundLoop()


def shared_background() -> BackgroundLoop:
    """The process's one background loop. Its thread starts with the first request."""
    return _SHARED
