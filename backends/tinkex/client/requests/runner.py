"""The event loops that run requests: the caller's own, or one background loop for blocking callers."""

import asyncio
import concurrent.futures
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from backends.tinkex.client.requests.api_future import THREAD_NAME, ApiFuture
from backends.tinkex.errors import BACKEND, WrongLoop
from crucible.runtime.forks import reset_after_fork
from crucible.runtime.monotonic import new_event_loop

T = TypeVar("T")


class Runner(ABC):
    """Starts coroutines on an event loop, in call order."""

    @abstractmethod
    def start(
        self, work: Coroutine[Any, Any, T], *, request_ids: Callable[[], list[str]] | None = None
    ) -> ApiFuture[T]:
        """Start a coroutine and return its future at once."""

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Start a coroutine and block until it is done. Raises WrongLoop where that would deadlock."""
        return self.start(work).result()


class CallerLoop(Runner):
    """A runner on the event loop of the call: no thread, any number of runs."""

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
                backend=BACKEND,
            ) from None
        return ApiFuture(task, request_ids)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        work.close()
        raise WrongLoop(
            "a blocking call on a client of the caller's event loop; await the method ending in _async",
            backend=BACKEND,
        )


class BackgroundLoop(Runner):
    """A runner on one daemon thread with its own loop, started on first use. A forked child starts its own."""

    def __init__(self) -> None:
        self._reset()

    def start(
        self, work: Coroutine[Any, Any, T], *, request_ids: Callable[[], list[str]] | None = None
    ) -> ApiFuture[T]:
        future: concurrent.futures.Future[T] = asyncio.run_coroutine_threadsafe(work, self._running_loop())
        return ApiFuture(future, request_ids)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                reset_after_fork(self._reset)
                self._loop = new_event_loop()
                threading.Thread(target=self._loop.run_forever, name=THREAD_NAME, daemon=True).start()
            return self._loop


_SHARED: Final = BackgroundLoop()


def shared_background() -> BackgroundLoop:
    """Return the process's single background loop. Its thread starts with the first request."""
    return _SHARED
