"""``nsai-work worker``: a runtime in its thread, fed by a Celery worker in the main thread."""

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
    """Work jobs of these priorities until told to stop; must be called from the main thread.

    The first SIGTERM or SIGINT hands running jobs over at their next border; the second gives them no more time;
    the third ends the process at once, which loses nothing either, but leaves the leases to run out.

    Raises:
        StoreUnavailable: the database does not answer when the worker starts.
    """
    configure_logging(settings)
    every = set(queues) == set(Priority)
    selection = Selection(priorities=None if every else tuple(queues))
    runtime = RuntimeThread(settings, selection, concurrency, on_end=_stop_consuming)
    # a worker of an earlier call in this process may have left its wish to stop behind
    state.should_stop = state.should_terminate = None
    # before Celery, which would turn an error of the store into a log line
    runtime.start()
    try:
        with _signals(runtime):
            _serve(make_app(settings, lambda: runtime), settings, queues)
    finally:
        runtime.stop()
    if runtime.failure is not None:
        raise runtime.failure


def _stop_consuming() -> None:
    """A consumer without a runtime would only throw wake-ups away."""
    if state.should_stop is None:
        state.should_stop = 1


def _serve(app: WorkApp, settings: Settings, queues: Sequence[Priority]) -> None:
    worker = app.WorkController(
        # nothing is executed by the pool; solo is the one that costs nothing
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
    asked = 0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            runtime.ask_to_stop()
            state.should_stop = 0
        elif asked == 2:
            runtime.force_stop()
        else:
            os._exit(128 + number)

    old = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
