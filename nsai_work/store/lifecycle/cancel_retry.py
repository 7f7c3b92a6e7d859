"""Cancellation and retry by request of a user."""

from sqlalchemy import update

from crucible.errors import Canceled
from nsai_work.errors import IllegalTransition
from nsai_work.lifecycle import JobStatus
from nsai_work.store.damaged import status_of
from nsai_work.store.engine.database import Tx
from nsai_work.store.lifecycle.dependencies import needed_by, settle_dependents, unsuccessful
from nsai_work.store.lifecycle.events import append_events
from nsai_work.store.lifecycle.locks import lock_job
from nsai_work.store.lifecycle.transitions import Transition, apply_transitions
from nsai_work.store.lifecycle.wait_events import depends_on
from nsai_work.store.rows import failure_json
from nsai_work.store.schema import jobs


def request_cancel(tx: Tx, job_id: str, tenant_id: str | None = None) -> JobStatus:
    """Cancel a waiting job, or request a running one to stop at its next step. Returns the status afterwards.

    An ended job is left unchanged.

    Raises:
        JobNotFound: the tenant has no job with this id.
    """
    row = lock_job(tx, job_id, tenant_id)
    status = status_of(row.status)
    if status.ended:
        return status
    if status is JobStatus.RUNNING:
        if row.cancel_requested_at is None:
            tx.connection.execute(update(jobs).where(jobs.c.seq == row.seq).values(cancel_requested_at=tx.now))
            append_events(tx, [(row.seq, "job.cancel_requested", {"fence": row.fence})])
        return status
    values = {
        "cancel_requested_at": tx.now,
        "completed_at": tx.now,
        "run_at": None,
        "wait_reason": None,
        "error": failure_json(Canceled("canceled by request before it ran").failure()),
    }
    apply_transitions(tx, [Transition(row, JobStatus.CANCELED, values)])
    settle_dependents(tx, [row.seq])
    return JobStatus.CANCELED


def retry(tx: Tx, job_id: str, tenant_id: str | None = None) -> None:
    """Queue an ended job again, with all its attempts left. A training job continues from its last checkpoint.

    While a job that it depends on runs again, it is pending.

    Raises:
        JobNotFound: the tenant has no job with this id.
        IllegalTransition: the job has not ended, or it succeeded; or one that it depends on did not.
    """
    row = lock_job(tx, job_id, tenant_id)
    if row.status == JobStatus.SUCCEEDED:
        raise IllegalTransition(
            f"job {job_id!r} succeeded, so there is nothing to retry; to run it once more, submit it as a new job",
            details={"job_id": job_id, "from": row.status},
        )
    if not status_of(row.status).ended:
        # the transition table allows queued from here, but only to the owner and to the maintenance
        raise IllegalTransition(
            f"job {job_id!r} is {row.status}; only an ended job can be retried",
            details={"job_id": job_id, "from": row.status},
        )
    needed = needed_by(tx, [row.seq], lock=True)[row.seq]
    if broken := unsuccessful(needed):
        names = ", ".join(f"{other.id!r} ({other.status})" for other in broken)
        raise IllegalTransition(
            f"job {job_id!r} depends on {names}; retry that first",
            details={"job_id": job_id, "depends_on": [other.id for other in broken]},
        )
    awaited = [other.id for other in needed if other.status != JobStatus.SUCCEEDED]
    values = {
        "attempt": 0,
        "crashes": 0,
        "queued_at": None if awaited else tx.now,
        "run_at": None,
        "delayed_since": None,
        "completed_at": None,
        "cancel_requested_at": None,
        "worker_id": None,
        "wait_reason": depends_on(awaited) if awaited else None,
        "result": None,
        "error": None,
        # a deadline in the past would end the job at once
        "deadline": row.deadline if row.deadline is not None and row.deadline > tx.now else None,
    }
    status = JobStatus.PENDING if awaited else JobStatus.QUEUED
    apply_transitions(tx, [Transition(row, status, values, {"reason": "retried_by_request"})])
