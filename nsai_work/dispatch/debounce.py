"""Debounced publisher: collects wake-ups for 5 ms and sends them in one batch. After a batch that wakes the whole
fleet up, it collects for 100 ms: whoever was woken up claims until nothing is due.

It is for a store that notifies workers itself: the notification arrives first, and publishing while a worker claims
the job would only compete for the processor. Killing the process within those milliseconds has the same effect as
killing it between commit and publish: the job is stored, and a worker finds it by polling.
"""

import atexit
import threading
from collections.abc import Sequence
from typing import Final

from crucible.runtime.forks import reset_after_fork
from nsai_work.dispatch.publisher import MAX_WAKE_UPS, Publisher, enough_wake_ups
from nsai_work.store.records import WakeUp

DEBOUNCE_S: Final = 0.005
AWAKE_S: Final = 0.1
"""The time for which a fleet counts as awake. A message costs a worker as much as a small job."""


class DebouncedPublisher:
    """Publishes wake-ups from a thread. Thread-safe and fork-safe. Owns its publisher."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._reset()
        reset_after_fork(self._reset)

    def _reset(self) -> None:
        # a fork copies neither the thread nor its duty to publish what is pending
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pending: list[WakeUp] = []
        self._arrived = threading.Event()
        self._closing = threading.Event()

    def send(self, wake_ups: Sequence[WakeUp]) -> None:
        """Queue wake-ups to be published within milliseconds."""
        if not wake_ups:
            return
        with self._lock:
            self._pending += wake_ups
            if self._thread is None:
                self._closing = threading.Event()
                self._thread = threading.Thread(
                    target=self._serve, args=(self._closing,), name="nsai-publisher", daemon=True
                )
                self._thread.start()
                atexit.register(self.close)
            self._arrived.set()

    def close(self) -> None:
        """Publish pending wake-ups and end the thread. A later ``send`` starts a new one."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._closing.set()
            self._arrived.set()
        if thread is not None:
            thread.join()
            atexit.unregister(self.close)
        self._publisher.close()

    def _serve(self, closing: threading.Event) -> None:
        while not closing.is_set():
            self._arrived.wait()
            closing.wait(DEBOUNCE_S)
            if self._publish() >= MAX_WAKE_UPS:
                closing.wait(AWAKE_S)
        # those that arrived while others were published
        self._publish()

    def _publish(self) -> int:
        """Publish what is pending. Returns the number of messages."""
        with self._lock:
            pending, self._pending = self._pending, []
            self._arrived.clear()
        enough = enough_wake_ups(pending)
        self._publisher.publish(enough)
        return len(enough)
