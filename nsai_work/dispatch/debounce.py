"""Debounced publisher: collects wake-ups for 5 ms and sends them in one batch.

For a store that notifies workers of ready jobs itself: the broker's wake-up then arrives second, so nobody waits
for it, and publishing while a worker claims the job would only compete for the processor. A process that is killed
within those milliseconds is like one that is killed between its commit and publishing: the job is stored, and is
found.
"""

import atexit
import os
import threading
from collections.abc import Sequence
from typing import Final

from nsai_work.dispatch.publisher import Publisher, enough_wake_ups
from nsai_work.store.records import WakeUp

DEBOUNCE_S: Final = 0.005


class DebouncedPublisher:
    """Owns its publisher. Safe to use from several threads, and after a fork."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pending: list[WakeUp] = []
        self._arrived = threading.Event()
        self._closing = threading.Event()

    def send(self, wake_ups: Sequence[WakeUp]) -> None:
        """Queue wake-ups; they are published within milliseconds."""
        if not wake_ups:
            return
        if self._pid != os.getpid():
            # the thread stayed with the parent, and so did what it has to deliver
            self._reset()
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
        """Publish what is left. A later ``send`` begins anew."""
        if self._pid != os.getpid():
            return
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
            self._publish()

    def _publish(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, []
            self._arrived.clear()
        self._publisher.publish(enough_wake_ups(pending))
