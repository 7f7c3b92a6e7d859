"""The ``nsai-work worker`` process: the runtime in a thread, and Celery's consumer in the main thread."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from celery.worker import state

from nsai_work.dispatch.app import WorkApp, make_app
from nsai_work.dispatch.queues import queue_name
from nsai_work.job import Priority
from nsai_work.logs import configure_logging
from nsai_work.settings import Settings
from nsai_work.store.records import Selection
from nsai_work.worker.runtime_thread import RuntimeThread


def run_worker(
    settings: Settings, queues: Sequence[Priority] = tuple(Priority), concurrency: int | None = None
) -> None:
    """Run jobs of these priorities until a signal stops the worker. Must be called from the main thread.

    The first SIGTERM or SIGINT hands running jobs over at their next step border; the second stops them without a
    grace period; the third ends the process immediately. Even then nothing is lost, but the leases have to expire.

    Raises:
        StoreUnavailable: the database is unavailable when the worker starts.
    """
    configure_logging(settings)
    all_priorities = set(queues) == set(Priority)
    selection = Selection(priorities=None if all_priorities else tuple(queues))
    runtime = RuntimeThread(settings, selection, concurrency, on_end=_stop_consuming)
    # an earlier worker in this process may have set these
    state.should_stop = state.should_terminate = None
    # before Celery, which would log an error of the store instead of raising it
    runtime.start()
    try:
        with _signals(runtime):
            _consume(make_app(settings, lambda: runtime), settings, queues)
    finally:
        runtime.stop()
    if runtime.failure is not None:
        raise runtime.failure


def _stop_consuming() -> None:
    """Stop Celery's consumer: without a runtime it would drop wake-ups."""
    if state.should_stop is None:
        state.should_stop = 1


def _consume(app: WorkApp, settings: Settings, queues: Sequence[Priority]) -> None:
    worker = app.WorkController(
        # the pool executes nothing; solo is the cheapest
        pool_cls="solo",
        concurrency=1,
        queues=[queue_name(settings.queue_prefix, priority) for priority in queues],
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel=settings.log_level.upper(),
    )
    worker.start()


@contextmanager
def _signals(runtime: RuntimeThread) -> Iterator[None]:
    signals = 0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal signals
        signals += 1
        if signals == 1:
            runtime.request_stop()
            state.should_stop = 0
        elif signals == 2:
            runtime.force_stop()
        else:
            os._exit(128 + number)

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
