"""A thread that runs a worker's runtime on its own event loop.

Nothing is created before ``start``. A forked child has no runtime until it calls ``start`` itself.
"""

import asyncio
import gc
import threading
from collections import deque
from collections.abc import Callable

from crucible.forks import reset_after_fork, retain_inherited
from crucible.monotonic import new_event_loop
from nsai_work.dispatch.publisher import Publisher
from nsai_work.logs import get_logger
from nsai_work.settings import Settings
from nsai_work.store.records import Selection, WakeUp
from nsai_work.worker.runtime import Runtime, open_runtime

log = get_logger(__name__)


class RuntimeThread:
    """Starts, wakes and stops a runtime; thread-safe. ``on_end`` is called in the thread when the runtime has
    ended."""

    def __init__(
        self,
        settings: Settings,
        selection: Selection | None = None,
        concurrency: int | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._selection = selection or Selection()
        self._concurrency = concurrency or settings.concurrency
        self._on_end = on_end
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runtime: Runtime | None = None
        self._reset()
        reset_after_fork(self._reset)

    def _reset(self) -> None:
        retain_inherited(self._loop, self._runtime)
        self._thread: threading.Thread | None = None
        self._loop = None
        self._runtime = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._wake_ups: deque[WakeUp] = deque()
        self._drain_scheduled = False

    def start(self) -> None:
        """Start the runtime; returns once it claims jobs.

        Raises:
            StoreUnavailable: the database is unavailable.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._main, name="nsai-work runtime", daemon=True)
            self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def wake(self, wake_up: WakeUp) -> None:
        """Queue a wake-up. Without a running runtime it is dropped."""
        if self._loop is None:
            return
        # one call into the loop drains all wake-ups that arrive before it runs. The wake-up is appended first: a
        # drain that is scheduled but has not begun finds it, and one that has begun no longer blocks scheduling
        # another
        self._wake_ups.append(wake_up)
        if not self._drain_scheduled:
            self._drain_scheduled = True
            self._call_soon(self._drain)

    @property
    def failure(self) -> BaseException | None:
        """The error that ended the runtime; None if it runs, or was stopped."""
        return self._failure

    def stop(self) -> None:
        """Hand running jobs over and stop; returns when that is done."""
        self.request_stop()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def request_stop(self) -> None:
        """Start to stop, without waiting: a signal handler may call it."""
        if self._runtime is not None:
            self._call_soon(self._runtime.stop)

    def force_stop(self) -> None:
        """Stop without a grace period for running jobs."""
        if self._runtime is not None:
            self._call_soon(self._runtime.force_stop)

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the thread to end. Returns whether it has."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def _main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(self._run())
        except BaseException as error:
            self._failure = error
            if self._ready.is_set():
                log.critical("worker.runtime_failed", exc_info=error)
        finally:
            self._loop = None
            self._ready.set()
            self._on_end()

    async def _run(self) -> None:
        publisher = Publisher(self._settings)
        self._loop = asyncio.get_running_loop()
        try:
            self._runtime = await open_runtime(
                self._settings, self._selection, self._concurrency, publisher=publisher
            )
            await self._runtime.run(on_ready=self._on_ready)
        finally:
            publisher.close()

    def _on_ready(self) -> None:
        # the objects created by imports are permanent: each full collection that scans them would block the event
        # loop for 100 ms. Freeze them now, while no transaction is open that would make others wait
        gc.collect()
        gc.freeze()
        self._ready.set()

    def _drain(self) -> None:
        self._drain_scheduled = False
        while self._wake_ups:
            wake_up = self._wake_ups.popleft()
            if self._runtime is not None:
                self._runtime.wake(wake_up)

    def _call_soon(self, function: Callable[[], None]) -> None:
        loop = self._loop
        if loop is None:
            return
        try:
            loop.call_soon_threadsafe(function)
        except RuntimeError:
            # the loop has just been closed: a stop is no longer needed, and a wake-up may be lost
            return
