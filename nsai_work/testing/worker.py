"""An inline worker: runs the submitted jobs that are due, in this process."""

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from crucible.runtime.monotonic import monotonic
from nsai_work.client.connections import job_store
from nsai_work.clock import SystemClock
from nsai_work.concurrency.coroutine_runner import run_blocking
from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus
from nsai_work.testing.store import IsolatedStore, active_store

if TYPE_CHECKING:
    from nsai_work.worker.runtime import Runtime

POLL_S: Final = 0.01
MAX_IDLE_S: Final = 2.0
"""The time for which due jobs may stay unclaimed while none runs."""


def run_jobs(*, timeout_s: float = 60.0) -> list[Job]:
    """Run the jobs of the isolated store until none is due any more, and return those that ran, in order.

    Jobs that become due meanwhile run too: dependents, and jobs that jobs submit. A retry whose delay is not over,
    and a job whose start time has not come, stay in the queue: move the clock and call it again. A job that cannot
    run here, such as for an unknown function, ends with that error. In async tests, call it in a thread.

    Raises:
        TimeoutError: jobs still run after ``timeout_s`` seconds, or are due but cannot start, such as those over a
            limit of running jobs; the message names them.
    """
    store = active_store()
    before = {job.id: (job.status, job.attempt) for job in store.jobs()}
    deadline = monotonic() + timeout_s
    while due := _due(store):
        run_blocking(_run_until_idle(store, due, deadline))
    return [job for job in store.jobs() if before.get(job.id, (None, 0)) != (job.status, job.attempt)]


async def _run_until_idle(store: IsolatedStore, job_ids: Collection[str], deadline: float) -> None:
    from nsai_work.store.records import Selection
    from nsai_work.worker.runtime import open_runtime

    waiting = [job.id for job in store.jobs() if not job.status.ended]
    runtime = await open_runtime(
        store.settings, Selection(job_ids=tuple({*job_ids, *waiting})), len(waiting) + 1, publisher=None
    )
    running = asyncio.create_task(runtime.run())
    try:
        await _await_idle(store, runtime, running, deadline)
    finally:
        runtime.stop()
        await asyncio.wait({running})
    running.result()


async def _await_idle(
    store: IsolatedStore, runtime: "Runtime", running: "asyncio.Task[None]", deadline: float
) -> None:
    busy_at = monotonic()
    while (due := await asyncio.to_thread(_due, store)) and not running.done():
        now = monotonic()
        if runtime.fetcher.running:
            busy_at = now
        if now > deadline:
            raise TimeoutError(f"jobs still run: {', '.join(due)}")
        if now - busy_at > MAX_IDLE_S:
            raise TimeoutError(f"jobs are due, but cannot start: {', '.join(due)}")
        await asyncio.sleep(POLL_S)


def _due(store: IsolatedStore) -> list[str]:
    """Return the ids of the jobs that run, could be claimed now, or are past their deadline."""
    from nsai_work.store.maintenance.scheduler import release_due

    job_store(store.settings).database.run(release_due)
    now = SystemClock().now()
    statuses = (JobStatus.RUNNING, JobStatus.QUEUED, JobStatus.PENDING)
    jobs = [job for status in statuses for job in store.jobs(status)]
    return [
        job.id
        for job in jobs
        if job.status is JobStatus.RUNNING
        or (job.status is JobStatus.QUEUED and (job.run_at is None or job.run_at <= now))
    ]
