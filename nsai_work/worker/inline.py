"""The ``nsai-work run`` worker: runs the given jobs in this process, without a broker."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence

from crucible.runtime.monotonic import new_event_loop
from nsai_work.client.follow import afollow_jobs
from nsai_work.settings import Settings
from nsai_work.store.records import EventRow, Selection
from nsai_work.worker.runtime import Runtime, open_runtime
from nsai_work.worker.worker_store import WorkerStore

MAX_PAUSE_S = 0.05

OnEvent = Callable[[EventRow], None]


def run_inline(
    job_ids: Sequence[str],
    settings: Settings,
    on_event: OnEvent | None = None,
    on_stopping: Callable[[], None] | None = None,
) -> None:
    """Run these jobs until all have ended, and call ``on_event`` with each of their events, in order.

    Ctrl-C or SIGTERM returns the jobs to the queue at their next step border. ``on_stopping`` is called
    immediately, since a step border may be seconds away. A second Ctrl-C raises KeyboardInterrupt. A job that
    another worker runs is followed to its end.

    Raises:
        StoreUnavailable: the database is unavailable.
        JobNotFound: a job does not exist.
    """
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_run(tuple(job_ids), settings, on_event or _ignore, on_stopping or _ignore))


def _ignore(*_: EventRow) -> None:
    return


async def _run(
    job_ids: Sequence[str], settings: Settings, on_event: OnEvent, on_stopping: Callable[[], None]
) -> None:
    selection = Selection(job_ids=tuple(job_ids))
    runtime = await open_runtime(settings, selection, max(len(job_ids), 1), publisher=None)
    running = asyncio.create_task(runtime.run())
    following = asyncio.create_task(_follow(runtime.store, job_ids, on_event))
    ended = False
    with _sigterm_like_ctrl_c():
        try:
            await asyncio.wait({running, following}, return_when=asyncio.FIRST_COMPLETED)
            ended = following.done()
            await _hand_over(runtime, running)
        except asyncio.CancelledError:
            # Ctrl-C: asyncio has cancelled its main task
            on_stopping()
            await _hand_over(runtime, running)
        finally:
            following.cancel()
            await asyncio.wait({following})
    # without the end of all jobs, the hand-over has closed the store, perhaps during a poll of the follower
    if ended:
        following.result()


async def _hand_over(runtime: Runtime, running: "asyncio.Task[None]") -> None:
    runtime.stop()
    # unlike "await running", a cancellation of this wait does not cancel the runtime
    await asyncio.wait({running})
    running.result()


@contextlib.contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def on_sigterm() -> None:
        # a sender that signals the process and its group sends it twice
        loop.add_signal_handler(signal.SIGTERM, lambda: None)
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _follow(store: WorkerStore, job_ids: Sequence[str], on_event: OnEvent) -> None:
    async for update in afollow_jobs(store.read_update, job_ids, max_pause_s=MAX_PAUSE_S):
        for event in update.events:
            on_event(event)
