"""The watchdog: judges from a thread of its own whether the worker's event loop still turns.

A loop that does not turn renews no lease, so other workers take over its jobs, while code of a job may block it for
hours. A loop that is late by half a lease is unhealthy until it turns again. One that is late by a whole lease has
lost its jobs; then ``on_stalled`` is called, by which a worker process ends. The log names the jobs that run then:
a job that blocks the loop at once has no other line there.
"""

import asyncio
import sys
import threading
import traceback
from collections.abc import Callable, Sequence

from nsai_work.telemetry.logs import get_logger
from nsai_work.worker.probes.health import WorkerHealth

log = get_logger(__name__)

CHECKS_PER_LEASE = 20
MAX_INTERVAL_S = 1.0
MAX_SHOWN_FRAMES = 12
MAX_SHOWN_JOBS = 20


class Watchdog:
    """Watches the loop on which it is started. ``health`` and ``stop`` may be used from any thread.

    ``running`` returns the ids of the jobs that run. It is called from the watchdog's thread.

    Only time in which the watchdog itself runs counts as late: the loop of a process that was suspended turns as
    soon as the process does.
    """

    def __init__(
        self,
        lease_ttl_s: float,
        running: Callable[[], Sequence[str]],
        on_stalled: Callable[[str], None] | None = None,
    ) -> None:
        self._lease_ttl_s = lease_ttl_s
        self._running = running
        self._on_stalled = on_stalled
        self._interval_s = min(MAX_INTERVAL_S, lease_ttl_s / CHECKS_PER_LEASE)
        self._stopped = threading.Event()
        self._turned = threading.Event()
        self._health = WorkerHealth(ok=True)

    @property
    def health(self) -> WorkerHealth:
        """The health as of the last check."""
        return self._health

    def start(self) -> None:
        """Watch the running loop from now on. Called on the loop."""
        watched = (asyncio.get_running_loop(), threading.get_ident())
        threading.Thread(target=self._watch, args=watched, name="nsai-work watchdog", daemon=True).start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()

    def _watch(self, loop: asyncio.AbstractEventLoop, thread_id: int) -> None:
        while self._ask(loop):
            misses = 0
            stalled = False
            # waiting for longer than asked is not counted: the process was suspended, or has no CPU
            while not self._stopped.wait(self._interval_s) and not self._turned.is_set():
                misses += 1
                late_s = misses * self._interval_s
                self._judge(late_s)
                if late_s >= self._lease_ttl_s and not stalled:
                    stalled = True
                    self._report_stall(late_s, thread_id)
            self._judge(0.0)

    def _ask(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Have the loop set ``_turned`` when it turns. Returns False when there is nothing more to watch."""
        if self._stopped.is_set():
            return False
        self._turned.clear()
        try:
            loop.call_soon_threadsafe(self._turned.set)
        except RuntimeError:
            # the loop is closed
            return False
        return True

    def _judge(self, late_s: float) -> None:
        late = late_s >= self._lease_ttl_s / 2
        reason = f"the event loop has not turned for {late_s:.1f} s" if late else None
        before, self._health = self._health, WorkerHealth(ok=not late, reason=reason, loop_late_s=late_s)
        if before.ok and late:
            running = self._running()
            log.error("worker.unhealthy", reason=reason, jobs=running[:MAX_SHOWN_JOBS], running=len(running))
        elif late_s == 0.0 and not before.ok:
            log.warning("worker.healthy", was_late_s=round(before.loop_late_s, 1))

    def _report_stall(self, late_s: float, thread_id: int) -> None:
        frame = sys._current_frames().get(thread_id)
        if frame is not None:
            stack = "".join(traceback.format_stack(frame)[-MAX_SHOWN_FRAMES:])
            log.critical("worker.loop_stack", stack=stack)
        reason = (
            f"the event loop has not turned for {late_s:.1f} s, as long as a lease lasts "
            f"({self._lease_ttl_s:g} s): a job or a plug-in blocks it, and other workers take over its jobs"
        )
        log.critical("worker.stalled", reason=reason)
        if self._on_stalled is not None:
            self._on_stalled(reason)
