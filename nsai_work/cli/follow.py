"""Following a job's events until it ends, from any process: by reading the store."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from nsai_work.cli.run_progress import JobEvent
from nsai_work.lifecycle import JobStatus

if TYPE_CHECKING:
    from nsai_work.store import Store

LOOK_EVERY_S = 0.1


def follow(
    store: "Store", job_id: str, see: Callable[[JobEvent], object], *, timeout_s: float | None
) -> JobStatus | None:
    """Hand every event to ``see``, from the first one on, until the job has ended; its status then.

    None when ``timeout_s`` passed before. A job that ended is followed to its last event.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    seen = 0
    while True:
        # the status is read before the events: whatever led to the end is then among them
        status = store.get(job_id).status
        page = store.events(job_id, after=seen)
        for event in page:
            see(event)
            seen = event.seq
        if page:
            continue
        if status.ended:
            return status
        if deadline is not None and time.monotonic() >= deadline:
            return None
        time.sleep(LOOK_EVERY_S)
