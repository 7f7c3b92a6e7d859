"""A runtime in a thread of its own, for a Celery worker.

Nothing is made before ``start``, and what is made belongs to the process that called it: after a fork the child
starts its own.
"""

import asyncio
import gc
import os
import threading
from collections import deque
from collections.abc import Callable

from nsai_work.dispatch.publisher import Publisher
from nsai_work.logs import get_logger
from nsai_work.settings import Settings
from nsai_work.store.records import Selection, WakeUp
from nsai_work.worker.runtime import Runtime, open_runtime

log = get_logger(__name__)


class RuntimeThread:
    """Starts, wakes and stops a runtime from any thread. ``on_end`` is called in its thread when it has ended."""

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
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runtime: Runtime | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._wake_ups: deque[WakeUp] = deque()
        self._drain_asked = False

    def start(self) -> None:
        """Start; returns when it claims jobs.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        if self._pid != os.getpid():
            self._reset()
        if self._thread is None:
            self._thread = threading.Thread(target=self._main, name="nsai-work runtime", daemon=True)
            self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def wake(self, wake: WakeUp) -> None:
        """Queue a wake-up; dropped when nothing runs here."""
        if self._pid != os.getpid():
            return
        # one call into the loop serves all wake-ups that come before it is run; appended first, so that a drain
        # that has not begun finds it, and one that has lets this thread ask for the next
        self._wake_ups.append(wake)
        if not self._drain_asked:
            self._drain_asked = True
            self._call(self._drain)

    @property
    def failure(self) -> BaseException | None:
        """What ended the runtime, if it did not end in order."""
        return self._failure

    def stop(self) -> None:
        """Hand running jobs over and end; returns when that is done."""
        self.ask_to_stop()
        thread = self._thread
        if thread is not None and self._pid == os.getpid() and thread is not threading.current_thread():
            thread.join()

    def ask_to_stop(self) -> None:
        """Begin to stop; returns at once, so a signal handler may call it."""
        if self._runtime is not None:
            self._call(self._runtime.stop)

    def force_stop(self) -> None:
        """Give running jobs no more time."""
        if self._runtime is not None:
            self._call(self._runtime.force_stop)

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; whether it has come."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
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
            await self._runtime.run(on_ready=self._begin)
        finally:
            publisher.close()

    def _begin(self) -> None:
        # all that the imports made is here to stay: a full collection that looked at it would stop the event loop
        # for a tenth of a second each time. Now, while no transaction is open that others would wait for
        gc.collect()
        gc.freeze()
        self._ready.set()

    def _drain(self) -> None:
        self._drain_asked = False
        while self._wake_ups:
            wake_up = self._wake_ups.popleft()
            if self._runtime is not None:
                self._runtime.wake(wake_up)

    def _call(self, function: Callable[[], None]) -> None:
        loop = self._loop
        if loop is None:
            return
        try:
            loop.call_soon_threadsafe(function)
        except RuntimeError:
            # the loop has just closed: whoever asked wanted it to end, or lost a wake-up
            return
