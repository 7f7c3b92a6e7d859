"""The Celery bootstep that starts and stops a worker's runtime.

It is a step of the worker's blueprint, not of its consumer's: the runtime starts before the broker is connected and
stops after the connection is closed, so jobs run while the broker is unavailable (docs/explanation/celery.md).
"""

from typing import Any, Protocol

from celery import bootsteps

from nsai_work.store.records import WakeUp


class RuntimeHandle(Protocol):
    """The runtime as the bootstep uses it."""

    def start(self) -> None:
        """Start; returns once it claims jobs."""
        ...

    def wake(self, wake_up: WakeUp) -> None:
        """Queue a wake-up, from any thread."""
        ...

    def stop(self) -> None:
        """Hand running jobs over and stop; returns when that is done. Idempotent."""
        ...

    def force_stop(self) -> None:
        """Cut the stop short: running jobs get no more time."""
        ...


class RuntimeStep(bootsteps.StartStopStep):  # type: ignore[misc]  # celery is untyped
    """Starts the runtime before the consumer, and stops it after the consumer began to close."""

    requires = ("celery.worker.components:Pool",)
    name = "nsai_work.runtime"

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self.runtime: RuntimeHandle = worker.app.make_runtime()

    def start(self, worker: Any) -> None:
        worker.app.inbox.connect(self.runtime.wake)
        self.runtime.start()

    def stop(self, worker: Any) -> None:
        worker.app.inbox.connect(None)
        self.runtime.stop()

    def terminate(self, worker: Any) -> None:
        self.runtime.force_stop()
        self.stop(worker)
