"""``nsai-work run``: work exactly these jobs in this process, without any broker."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence

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
    """Work these jobs until all have ended; ``on_event`` is called with each of their events, in order.

    Ctrl-C or SIGTERM hands them back to the queue at their next border and returns; ``on_stopping`` is called at
    once, since a border may be seconds away. A second Ctrl-C raises KeyboardInterrupt. A job that another
    worker has is only watched.

    Raises:
        StoreUnavailable: the database does not answer.
        JobNotFound: a job does not exist.
    """
    asyncio.run(_run(tuple(job_ids), settings, on_event or _ignore, on_stopping or _ignore))


def _ignore(*_: EventRow) -> None:
    return


async def _run(
    job_ids: Sequence[str], settings: Settings, on_event: OnEvent, on_stopping: Callable[[], None]
) -> None:
    selection = Selection(job_ids=tuple(job_ids))
    runtime = await open_runtime(settings, selection, max(len(job_ids), 1), publisher=None)
    working = asyncio.create_task(runtime.run())
    following = asyncio.create_task(_follow(runtime.store, job_ids, on_event))
    ended = False
    with _sigterm_as_ctrl_c():
        try:
            await asyncio.wait({working, following}, return_when=asyncio.FIRST_COMPLETED)
            ended = following.done()
            await _until_handed_over(runtime, working)
        except asyncio.CancelledError:
            # Ctrl-C: asyncio cancels its main task; the hand-over is what it asks for
            on_stopping()
            await _until_handed_over(runtime, working)
        finally:
            following.cancel()
            await asyncio.wait({following})
    # a hand-over closes the store, which may take the follower in the middle of a look
    if ended:
        following.result()


async def _until_handed_over(runtime: Runtime, working: "asyncio.Task[None]") -> None:
    runtime.stop()
    # unlike "await working", this leaves the work alone when the waiting is cancelled
    await asyncio.wait({working})
    working.result()


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def told() -> None:
        # whoever sends it to the process and to its group sends it twice
        loop.add_signal_handler(signal.SIGTERM, lambda: None)
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, told)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _follow(store: WorkerStore, job_ids: Sequence[str], on_event: OnEvent) -> None:
    async for update in afollow_jobs(store.read_update, job_ids, max_pause_s=MAX_PAUSE_S):
        for event in update.events:
            on_event(event)
