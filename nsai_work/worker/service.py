"""The ``nsai-work worker`` process: the runtime in a thread, and Celery's consumer in the main thread."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType

from celery.worker import state

from nsai_work.dispatch.app import WorkApp, make_app
from nsai_work.dispatch.queues import queue_name
from nsai_work.errors import WorkerFailed
from nsai_work.job import Priority
from nsai_work.settings import Settings
from nsai_work.store.records import Selection
from nsai_work.telemetry.logs import configure_logging, get_logger, log_what_python_prints, writes_json
from nsai_work.worker.probes.answers import Probes
from nsai_work.worker.probes.probe_server import Address, probe_server
from nsai_work.worker.runtime_thread import RuntimeThread

log = get_logger(__name__)

FAILED = 1


def run_worker(
    settings: Settings,
    queues: Sequence[Priority] = tuple(Priority),
    concurrency: int | None = None,
    on_ready: Callable[[str, str | None], None] | None = None,
    http: Address | None = None,
) -> None:
    """Run jobs of these priorities until a signal stops the worker. Must be called from the main thread.

    ``on_ready`` is called, once jobs are claimed, with the worker's id and the URL of its HTTP server, of its
    health and metrics: there is one if ``http`` is given.

    The first SIGTERM or SIGINT hands running jobs over at their next step border; the second stops them without a
    grace period; the third ends the process immediately. Even then nothing is lost, but the leases have to expire.

    If the event loop does not turn for a whole lease, the process ends at once, with exit code 1 and the reason as
    its last line.

    Raises:
        StoreUnavailable: the database is unavailable when the worker starts, or (StoreGone) its file is deleted.
        InvalidRequest: ``http`` cannot be listened on.
        WorkerFailed: the worker ended although no signal asked for it, or did not stop in time.
    """
    configure_logging(settings)
    if writes_json():
        log_what_python_prints()
    all_priorities = set(queues) == set(Priority)
    selection = Selection(priorities=None if all_priorities else tuple(queues))
    runtime = RuntimeThread(settings, selection, concurrency, on_end=stop_consuming, on_stalled=end_process)
    # an earlier worker in this process may have set these
    state.should_stop = state.should_terminate = None
    with _http(runtime, settings, http) as url:
        # before Celery, which would log an error of the store instead of raising it
        runtime.start()
        received = _work(runtime, settings, queues, partial(on_ready, runtime.worker_id, url) if on_ready else None)
    if runtime.failure is not None:
        raise runtime.failure
    if not received:
        raise WorkerFailed(
            "the consumer of the broker's messages ended although no signal asked for it; the log has the reason"
        )


@contextmanager
def _http(runtime: RuntimeThread, settings: Settings, address: Address | None) -> Iterator[str | None]:
    """Serve the worker's health and metrics, if there is an address. Yields the URL."""
    if address is None:
        yield None
        return
    with contextlib.closing(Probes(runtime, settings)) as probes, probe_server(address, probes.routes) as url:
        log.info("worker.http", url=url)
        yield url


def _work(
    runtime: RuntimeThread, settings: Settings, queues: Sequence[Priority], on_ready: Callable[[], None] | None
) -> list[int]:
    """Consume wake-ups until a signal stops the worker. Returns the signals that were received."""
    with _signals(runtime) as received:
        try:
            if on_ready is not None:
                on_ready()
            _consume(make_app(settings, lambda: runtime), settings, queues)
        except OSError as error:
            raise WorkerFailed(f"the operating system refused what the worker needs: {error}") from error
        finally:
            runtime.stop()
    return received


def end_process(reason: str) -> None:
    """End this process at once, with the reason as its last line: a thread that is stuck cannot be ended."""
    with contextlib.suppress(Exception):
        if writes_json():
            log.critical("worker.ended", reason=reason)
        for handler in logging.getLogger().handlers:
            handler.flush()
        if not writes_json():
            sys.stderr.write(f"error: the worker ends: {reason}\n")
        sys.stderr.flush()
    os._exit(FAILED)


def stop_consuming() -> None:
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
def _signals(runtime: RuntimeThread) -> Iterator[list[int]]:
    """Handle signals; yields the ones that have been received so far."""
    received: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 1:
            runtime.request_stop()
            state.should_stop = 0
        elif len(received) == 2:
            runtime.force_stop()
        else:
            os._exit(128 + number)

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
