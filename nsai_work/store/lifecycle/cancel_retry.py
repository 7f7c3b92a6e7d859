"""What people ask of a job from outside: cancel it, or try it again."""

from typing import Any

from sqlalchemy import Row, select, update

from crucible.errors import Canceled
from nsai_work.errors import IllegalTransition, JobNotFound
from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.database import Tx
from nsai_work.store.lifecycle.dependencies import after_end
from nsai_work.store.lifecycle.transitions import Transition, append_events, lock_rows, move
from nsai_work.store.rows import failure_json
from nsai_work.store.schema import jobs


def job_not_found(job_id: str) -> JobNotFound:
    """The error for an id that nobody has, or that belongs to another tenant: the two look alike."""
    return JobNotFound(f"there is no job {job_id!r}", details={"job_id": job_id})


def locked_job(tx: Tx, job_id: str, tenant_id: str | None) -> Row[Any]:
    """A job's row, locked.

    Raises:
        JobNotFound: no job of this tenant has the id.
    """
    statement = select(jobs).where(jobs.c.id == job_id)
    if tenant_id is not None:
        statement = statement.where(jobs.c.tenant_id == tenant_id)
    rows = lock_rows(tx, statement)
    if not rows:
        raise job_not_found(job_id)
    return rows[0]


def request_cancel(tx: Tx, job_id: str, tenant_id: str | None = None) -> JobStatus:
    """Cancel a job: at once while it waits; one that runs is told to stop at its next step. The status after it.

    A job that has ended stays as it is.

    Raises:
        JobNotFound: no job of this tenant has the id.
    """
    row = locked_job(tx, job_id, tenant_id)
    status = JobStatus(row.status)
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
    move(tx, [Transition(row, JobStatus.CANCELED, values)])
    after_end(tx, [row.seq])
    return JobStatus.CANCELED


def retry(tx: Tx, job_id: str, tenant_id: str | None = None) -> None:
    """Open an ended job again, with all its attempts before it. What it has recorded stays, so that a training
    job goes on from its last checkpoint.

    Raises:
        JobNotFound: no job of this tenant has the id.
        IllegalTransition: it has not ended, or it succeeded.
    """
    row = locked_job(tx, job_id, tenant_id)
    if not JobStatus(row.status).ended:
        # the table has moves from here to queued, but they are the owner's and the sweep's
        raise IllegalTransition(
            f"job {job_id!r} is {row.status}; only a job that has ended can be tried again",
            details={"job_id": job_id, "from": row.status},
        )
    values = {
        "attempt": 0,
        "crashes": 0,
        "queued_at": tx.now,
        "run_at": None,
        "delayed_since": None,
        "completed_at": None,
        "cancel_requested_at": None,
        "worker_id": None,
        "wait_reason": None,
        "result": None,
        "error": None,
        # a deadline that has passed would end it again at once
        "deadline": row.deadline if row.deadline is not None and row.deadline > tx.now else None,
    }
    move(tx, [Transition(row, JobStatus.QUEUED, values, {"reason": "retried_by_request"})])
