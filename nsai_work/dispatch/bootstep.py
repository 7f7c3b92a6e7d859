"""Ties the worker's runtime to the life of a Celery worker.

A step of the worker's blueprint, not of its consumer's: so it runs from before the broker is connected until
after it is gone, and jobs are worked while the broker is away (docs/explanation/celery.md).
"""

from typing import Any, Protocol

from celery import bootsteps

from nsai_work.store.records import WakeUp


class RuntimeHandle(Protocol):
    """What a Celery worker starts and stops."""

    def start(self) -> None:
        """Begin to work."""
        ...

    def wake(self, wake: WakeUp) -> None:
        """Queue a wake-up, from any thread."""
        ...

    def stop(self) -> None:
        """Hand running jobs over and end; returns when that is done. Idempotent."""
        ...

    def force_stop(self) -> None:
        """Make a stop that is under way end now."""
        ...


class RuntimeStep(bootsteps.StartStopStep):  # type: ignore[misc]  # celery is untyped
    """Starts the runtime before the consumer, and stops it after the consumer was asked to close."""

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
