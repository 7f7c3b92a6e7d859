"""A thread that runs a worker's runtime on its own event loop.

Nothing is created before ``start``. A forked child has no runtime until it calls ``start`` itself.
"""

import asyncio
import gc
import threading
from collections import deque
from collections.abc import Callable

from crucible.errors import CrucibleError
from crucible.runtime.forks import reset_after_fork, retain_inherited
from crucible.runtime.monotonic import new_event_loop
from nsai_work.dispatch.publisher import Publisher
from nsai_work.errors import WorkerFailed
from nsai_work.settings import Settings
from nsai_work.store.records import Selection, WakeUp
from nsai_work.telemetry.logs import get_logger
from nsai_work.worker.probes.health import NOT_STARTED, STOPPED, WorkerHealth
from nsai_work.worker.runtime import Runtime, open_runtime

log = get_logger(__name__)

# what a stop may take beyond the jobs' grace period: supervision, backends, the store
STOP_SLACK_S = 45.0
# what remains on the loop then was abandoned, and may never end
CLEANUP_WAIT_S = 5.0


class RuntimeThread:
    """Starts, wakes and stops a runtime; thread-safe. ``on_end`` is called in the thread when the runtime has
    ended, and ``on_stalled`` in another one if its event loop is late by a whole lease."""

    def __init__(
        self,
        settings: Settings,
        selection: Selection | None = None,
        concurrency: int | None = None,
        on_end: Callable[[], None] = lambda: None,
        on_stalled: Callable[[str], None] | None = None,
    ) -> None:
        self._settings = settings
        self._selection = selection or Selection()
        self._concurrency = concurrency or settings.concurrency
        self._on_end = on_end
        self._on_stalled = on_stalled
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
        self._finished = threading.Event()
        self._stop_requested = False
        self._failure: CrucibleError | None = None
        self._wake_ups: deque[WakeUp] = deque()
        self._drain_scheduled = False

    def start(self) -> None:
        """Start the runtime; returns once it claims jobs.

        Raises:
            StoreUnavailable: the database is unavailable.
            WorkerFailed: any other error ended the runtime.
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
    def failure(self) -> CrucibleError | None:
        """The error that ended the runtime; None if it runs, or was stopped."""
        return self._failure

    @property
    def worker_id(self) -> str:
        """The id of the running worker. Raises RuntimeError before ``start``."""
        if self._runtime is None:
            raise RuntimeError("start the runtime first")
        return self._runtime.store.worker_id

    @property
    def health(self) -> WorkerHealth:
        """The health of the runtime, judged outside of its event loop."""
        if self._failure is not None:
            return WorkerHealth(ok=False, reason=self._failure.message)
        if self._finished.is_set():
            return STOPPED
        return NOT_STARTED if self._runtime is None else self._runtime.watchdog.health

    @property
    def stopping(self) -> bool:
        """The runtime was asked to stop."""
        return self._stop_requested

    @property
    def loop_lag_s(self) -> float:
        """The delay of the event loop in seconds: as last measured, or longer while it does not turn."""
        runtime = self._runtime
        return 0.0 if runtime is None else max(runtime.lag.newest_s, runtime.watchdog.health.loop_late_s)

    def stop(self) -> None:
        """Hand running jobs over and stop; returns when done, or after a limited time, with a ``failure``."""
        self.request_stop()
        thread = self._thread
        if thread is None or thread is threading.current_thread() or self._failure is not None:
            return
        self._finished.wait(self._settings.shutdown_grace_s + STOP_SLACK_S)
        thread.join(CLEANUP_WAIT_S)
        if thread.is_alive():
            self._failure = WorkerFailed(
                "the worker has handed its jobs over, but code of a job or of a plug-in does not end"
                if self._finished.is_set()
                else "the worker did not stop in time; the leases of its jobs expire"
            )

    def request_stop(self) -> None:
        """Start to stop, without waiting: a signal handler may call it."""
        self._stop_requested = True
        if self._runtime is not None:
            self._call_soon(self._runtime.stop)

    def force_stop(self) -> None:
        """Stop without a grace period for running jobs."""
        self._stop_requested = True
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
            self._failure = self._doubtful_end()
        except CrucibleError as error:
            self._failure = error
        except BaseException as error:
            # SystemExit too, with which the process would end as if all were well
            self._failure = WorkerFailed(f"the worker's runtime ended with an unexpected {type(error).__name__}")
            log.critical("worker.runtime_failed", exc_info=error)
        finally:
            self._loop = None
            self._finished.set()
            self._ready.set()
            self._on_end()

    def _doubtful_end(self) -> WorkerFailed | None:
        """The error of a runtime that ended without one, if not all is well."""
        if not self._stop_requested:
            return WorkerFailed("the worker's runtime ended although nobody stopped it")
        hanging = self._runtime.io_threads.busy if self._runtime is not None else 0
        if hanging:
            return WorkerFailed(f"{hanging} blocking calls of jobs, such as opening a file, did not end in time")
        return None

    async def _run(self) -> None:
        publisher = Publisher(self._settings)
        self._loop = asyncio.get_running_loop()
        try:
            self._runtime = await open_runtime(
                self._settings,
                self._selection,
                self._concurrency,
                publisher=publisher,
                on_stalled=self._on_stalled,
            )
            if self._stop_requested:
                # before there was a runtime to be asked
                self._runtime.stop()
            await self._runtime.run(on_ready=self._on_ready)
        finally:
            self._finished.set()
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
