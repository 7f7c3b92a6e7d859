"""Submits jobs: validates them, stores them in one transaction, then wakes workers.

A repeated idempotency key returns the job that already exists. Waking workers comes last and may fail: the jobs are
stored, and workers also find them by polling.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from nsai_work.client.connections import job_store, send_wake_ups
from nsai_work.client.file_shipper import submit_with_files
from nsai_work.client.handle import JobHandle
from nsai_work.client.validation.data_check import DataCheck, DataProgress
from nsai_work.client.validation.job_check import validate_jobs
from nsai_work.client.validation.job_place import placed_errors
from nsai_work.client.validation.job_reads import check_functions, has_reads, in_order, with_dependencies
from nsai_work.client.validation.teacher_check import check_trained_teachers
from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus
from nsai_work.settings import Settings
from nsai_work.telemetry.logs import get_logger
from nsai_work.telemetry.traces import submit_span

if TYPE_CHECKING:
    from nsai_work.store import Store, Submitted

log = get_logger(__name__)


def submit(job: Job, settings: Settings | None = None) -> JobHandle:
    """Submit a job: validate and store it, and wake a worker. Nothing is stored if it raises.

    Raises:
        InvalidRequest, InvalidJob, UnknownBackend, Unsupported: a field is invalid; the error names it.
        AuthenticationFailed: the backend rejected the credential. A missing one is no error.
        BlobsElsewhere, BlobsUnavailable: the place of the jobs' files cannot be used.
        StoreUnavailable, StoreFull: the database failed.
    """
    return submit_many([job], settings)[0]


async def asubmit(job: Job, settings: Settings | None = None) -> JobHandle:
    """``submit`` for async code. Does not block the event loop."""
    return await asyncio.to_thread(submit, job, settings)


def submit_many(
    jobs: Sequence[Job],
    settings: Settings | None = None,
    *,
    runs_here: bool = False,
    check_data: bool = True,
    on_progress: DataProgress | None = None,
) -> list[JobHandle]:
    """Submit jobs in one transaction: all of them, or none. They may depend on each other, and read what others of
    them make; the handles are in the order of ``jobs``.

    The credential of a backend is needed by its workers only: without it the jobs are accepted unverified, with the
    event ``submit.unverified``. A process that will run the jobs itself passes ``runs_here``, and is refused.

    Raises as ``submit``.
    """
    settings = settings or Settings()
    data_check = None
    if check_data:
        data_check = DataCheck(runs_here=runs_here, on_progress=on_progress, allow=settings.allowed_modules)
    return submit_as(lambda job: job, jobs, settings, runs_here=runs_here, data_check=data_check)


def submit_as(
    as_stored: Callable[[Job], Job],
    jobs: Sequence[Job],
    settings: Settings,
    *,
    runs_here: bool = False,
    data_check: DataCheck | None = None,
) -> list[JobHandle]:
    """``submit_many`` of jobs that are validated in another form than they are stored: with other paths of files
    that are in the blob store already."""
    if not jobs:
        return []
    with placed_errors(jobs), submit_span(jobs) as trace:
        traced = in_order([trace.mark(job) for job in jobs])
        missing: Mapping[str, str] = {}
        if has_reads(traced):
            traced = with_dependencies(traced, job_store(settings))
            check_trained_teachers(traced, job_store(settings), timeout_s=settings.submit_timeout_s)
            missing = check_functions(traced, timeout_s=settings.submit_timeout_s, runs_here=runs_here)
        validated = validate_jobs(
            traced,
            timeout_s=settings.submit_timeout_s,
            runs_here=runs_here,
            data_check=data_check,
            are_stored=lambda pinned: _are_stored(settings, pinned),
        )
        store = job_store(settings)
        submitted = submit_with_files(store, [as_stored(entry.job) for entry in validated], settings)
        for validated_job, entry in zip(validated, submitted, strict=True):
            reason = validated_job.unverified or missing.get(validated_job.job.id)
            if reason is not None and entry.created:
                _record_unverified(store, entry.job_id, reason)
        _wake_workers(settings, submitted, trace.traceparent)
    ids = {job.id: entry.job_id for job, entry in zip(traced, submitted, strict=True)}
    return [JobHandle(ids[job.id], settings) for job in jobs]


def _are_stored(settings: Settings, jobs: Sequence[Job]) -> list[bool]:
    if all(job.idempotency_key is None for job in jobs):
        return [False] * len(jobs)
    return [found is not None for found in job_store(settings).find_submitted(jobs)]


def _record_unverified(store: "Store", job_id: str, reason: str) -> None:
    from nsai_work.store.lifecycle.events import add_event

    store.database.run(add_event, job_id, "submit.unverified", {"reason": reason})
    log.warning("submit.unverified", job_id=job_id, reason=reason)


def _wake_workers(settings: Settings, submitted: "Sequence[Submitted]", traceparent: str | None) -> None:
    from nsai_work.store import WakeUp

    wake_ups = [
        WakeUp(job_id=entry.job_id, fence=entry.fence, priority=entry.priority, traceparent=traceparent)
        for entry in submitted
        if entry.created and entry.status is JobStatus.QUEUED
    ]
    send_wake_ups(settings, wake_ups)
