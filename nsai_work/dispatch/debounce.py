"""Hands hints to the publisher a moment later, together with those that follow.

For a store that gives notice of ready jobs by itself. The broker's hint is then the second to arrive, so nobody
need wait for it, and while a worker claims the job, telling the broker would only compete for the processor. A
process that is killed within that moment is like one that is killed between its commit and publishing: the job is
stored, and is found.
"""

import atexit
import os
import threading
from collections.abc import Sequence
from itertools import groupby
from typing import Final

from nsai_work.dispatch.publisher import Publisher, enough_of
from nsai_work.store.records import Hint

MOMENT_S: Final = 0.005


class Courier:
    """Owns its publisher. Safe to use from several threads, and after a fork."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._bag: list[tuple[str, Sequence[Hint]]] = []
        self._some = threading.Event()
        self._closing = threading.Event()

    def send(self, hints: Sequence[Hint], traceparent: str | None = None) -> None:
        """Take hints; they are published soon."""
        if not hints:
            return
        if self._pid != os.getpid():
            # the thread stayed with the parent, and so did what it has to deliver
            self._reset()
        with self._lock:
            self._bag.append((traceparent or "", hints))
            if self._thread is None:
                self._closing = threading.Event()
                self._thread = threading.Thread(
                    target=self._serve, args=(self._closing,), name="nsai-courier", daemon=True
                )
                self._thread.start()
                atexit.register(self.close)
            self._some.set()

    def close(self) -> None:
        """Publish what is left. A later ``send`` begins anew."""
        if self._pid != os.getpid():
            return
        with self._lock:
            thread, self._thread = self._thread, None
            self._closing.set()
            self._some.set()
        if thread is not None:
            thread.join()
            atexit.unregister(self.close)
        self._publisher.close()

    def _serve(self, closing: threading.Event) -> None:
        while not closing.is_set():
            self._some.wait()
            closing.wait(MOMENT_S)
            self._deliver()

    def _deliver(self) -> None:
        with self._lock:
            bag, self._bag = self._bag, []
            self._some.clear()
        for trace, entries in groupby(bag, key=lambda entry: entry[0]):
            hints = [hint for _, some in entries for hint in some]
            self._publisher.publish(enough_of(hints), traceparent=trace or None)
