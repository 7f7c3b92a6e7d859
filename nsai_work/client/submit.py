"""submit: check everything, store in one transaction, then say that there is work.

Submitting the same idempotency key again gives the job that is there. Telling the broker comes last and may fail:
the job is stored, and workers look for themselves.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nsai_work import telemetry
from nsai_work.client.connections import job_store, send_wake_ups
from nsai_work.client.handle import JobHandle
from nsai_work.client.validate import validated
from nsai_work.clock import Clock, SystemClock
from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus
from nsai_work.logs import get_logger
from nsai_work.settings import Settings

if TYPE_CHECKING:
    from nsai_work.store import Store, Submitted

log = get_logger(__name__)


def submit(job: Job, settings: Settings | None = None) -> JobHandle:
    """Store a job and wake a worker.

    Raises:
        InvalidRequest, InvalidJob, UnknownBackend, Unsupported: naming the field; nothing was stored.
        AuthenticationFailed: the backend refused the credential; nothing was stored.
        StoreUnavailable, StoreFull: the database failed; nothing was stored.
    """
    return submit_many([job], settings)[0]


def submit_many(
    jobs: Sequence[Job], settings: Settings | None = None, clock: Clock | None = None
) -> list[JobHandle]:
    """Store several jobs in one transaction: all of them or none. They may depend on each other.

    Raises as ``submit``.
    """
    if not jobs:
        return []
    settings = settings or Settings()
    clock = clock or SystemClock()
    with telemetry.submit_span(len(jobs)) as trace:
        checked = validated([trace.mark(job) for job in jobs], now=clock.now(), timeout_s=settings.submit_timeout_s)
        store = job_store(settings)
        submitted = store.submit([job for job, _ in checked])
        for (_, doubt), entry in zip(checked, submitted, strict=True):
            if doubt is not None and entry.created:
                _note_doubt(store, entry.job_id, doubt)
        _wake(settings, submitted, trace.traceparent)
    return [JobHandle(entry.job_id, settings) for entry in submitted]


def _note_doubt(store: "Store", job_id: str, doubt: str) -> None:
    from nsai_work.store.queries.wake_ups import add_event

    store.database.run(add_event, job_id, "submit.unverified", {"reason": doubt})
    log.warning("submit.unverified", job_id=job_id, reason=doubt)


async def asubmit(job: Job, settings: Settings | None = None) -> JobHandle:
    """``submit`` for async code: the event loop stays free."""
    return await asyncio.to_thread(submit, job, settings)


def _wake(settings: Settings, submitted: "Sequence[Submitted]", traceparent: str | None) -> None:
    from nsai_work.store import WakeUp

    ready = [
        WakeUp(job_id=entry.job_id, fence=entry.fence, priority=entry.priority, traceparent=traceparent)
        for entry in submitted
        if entry.created and entry.status is JobStatus.QUEUED
    ]
    send_wake_ups(settings, ready)
