"""Threads for blocking calls that may hang, such as opening files.

A call may hang for ever, on a FIFO or a dead network file system. Python's own pool would then neither serve the
other jobs, once all of its few threads hang, nor let the process end. These threads are daemons, as many as the
jobs need, and the end of the worker waits for them for a limited time.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from crucible.runtime.monotonic import monotonic

T = TypeVar("T")
P = ParamSpec("P")

SHUTDOWN_WAIT_S = 2.0


class IoThreads(ThreadPoolExecutor):
    """An executor for an event loop, which accepts subclasses of ThreadPoolExecutor only. ``busy`` is the number of
    calls that run now."""

    def __init__(self, max_threads: int) -> None:
        super().__init__(max_workers=max_threads)
        self._max_threads = max_threads
        self._calls: queue.SimpleQueue[Callable[[], Callable[[], None]] | None] = queue.SimpleQueue()
        self._started: list[threading.Thread] = []
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._closed = False
        self.busy = 0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Call a function in a thread. Raises RuntimeError after ``shutdown``."""
        future: Future[T] = Future()

        def call() -> Callable[[], None]:
            if not future.set_running_or_notify_cancel():
                return lambda: None
            try:
                return partial(future.set_result, fn(*args, **kwargs))
            except BaseException as error:
                return partial(future.set_exception, error)

        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._calls.put(call)
            if not self._idle.acquire(blocking=False) and len(self._started) < self._max_threads:
                name = f"nsai-work io {len(self._started)}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                thread.start()
                self._started.append(thread)
        return future

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            with self._lock:
                self.busy += 1
            report = call()
            with self._lock:
                self.busy -= 1
            # before the caller has the result, so that its next call finds this thread idle
            self._idle.release()
            report()
            del call, report

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls, and wait for the running ones for at most SHUTDOWN_WAIT_S."""
        with self._lock:
            self._closed = True
            for _ in self._started:
                self._calls.put(None)
        deadline = monotonic() + (SHUTDOWN_WAIT_S if wait else 0.0)
        for thread in self._started:
            thread.join(max(0.0, deadline - monotonic()))
        super().shutdown(wait=False, cancel_futures=cancel_futures)
