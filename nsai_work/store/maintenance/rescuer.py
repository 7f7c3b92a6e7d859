"""Rescue of running jobs whose worker has died: their leases, which have expired or whose owner is absent, are
revoked."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, select

from crucible.errors import Canceled, ErrorCategory, Failure
from nsai_work.errors import WorkerLost
from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.bulk_write import BulkWrite
from nsai_work.store.engine.database import Tx
from nsai_work.store.lifecycle.dependencies import settle_dependents
from nsai_work.store.lifecycle.finish import close_attempts, requeued_columns
from nsai_work.store.lifecycle.locks import lock_rows
from nsai_work.store.lifecycle.transitions import Transition, plan_transitions
from nsai_work.store.records import Lease, OutcomeKind
from nsai_work.store.rows import failure_json, failure_of, job_of, select_jobs
from nsai_work.store.schema import attempts, jobs, status_in

MAX_CRASHES: Final = 5
"""The number of workers in a row that may die with a job, without progress, before it fails as a poison job. Deaths
have many causes (deployments, spot instances), so they are counted apart from the attempts of the retry policy."""


LEASE_EXPIRED: Final = "lease_expired"
WORKER_ABSENT: Final = "worker_absent"


def reclaim(
    tx: Tx, ended: Sequence[Lease], *, reason: str = LEASE_EXPIRED, max_crashes: int = MAX_CRASHES
) -> dict[str, JobStatus]:
    """Revoke leases. Returns the new status by job id. A lease renewed since is left alone. ``reason`` is in the
    job's event.

    The job is requeued; or canceled, if that was requested; or failed as a poison job, with the evidence, if
    ``max_crashes`` workers in a row have died with it and it made no progress.
    """
    if not ended:
        return {}
    columns = (jobs.c.seq, jobs.c.fence, jobs.c.beat)
    unchanged = tx.one_of_rows(columns, [(lease.seq, lease.fence, lease.beat) for lease in ended])
    rows = lock_rows(
        tx, select_jobs().where(status_in(JobStatus.RUNNING), unchanged).order_by(jobs.c.seq), skip_locked=True
    )
    transitions = [_transition(tx, row, reason, max_crashes) for row in rows]
    bulk = BulkWrite()
    plan_transitions(tx, transitions, bulk)
    close_attempts(tx, [(row, str(OutcomeKind.LOST), failure_json(_lost(row))) for row in rows], bulk)
    bulk.execute(tx)
    settled = [transition.row.seq for transition in transitions if transition.status.ended]
    if settled:
        settle_dependents(tx, settled)
    return {transition.row.id: transition.status for transition in transitions}


def _lost(row: Row[Any]) -> Failure:
    return WorkerLost(
        f"worker {row.worker_id} died or stopped answering while it had the job",
        details={"worker_id": row.worker_id, "fence": row.fence},
    ).failure()


def _transition(tx: Tx, row: Row[Any], reason: str, max_crashes: int) -> Transition:
    crashes = row.crashes + 1
    event = {"reason": reason, "worker_id": row.worker_id, "crashes": crashes}
    ended = {"completed_at": tx.now, "crashes": crashes, "wait_reason": None}
    if row.cancel_requested_at is not None:
        canceled = Canceled("canceled by request; its worker had died").failure()
        return Transition(row, JobStatus.CANCELED, {**ended, "error": failure_json(canceled)}, event)
    failure = _final_failure(tx, row, crashes, max_crashes)
    if failure is not None:
        evidence = {**event, "code": failure.code, "message": failure.message}
        return Transition(row, JobStatus.FAILED, {**ended, "error": failure_json(failure)}, evidence)
    values = {
        **requeued_columns(tx, row, 0),
        "crashes": crashes,
        "wait_reason": "worker_lost",
        # a worker's death counts in ``crashes``, not as an attempt
        "attempt": max(row.attempt - 1, 0),
    }
    return Transition(row, JobStatus.QUEUED, values, event)


def _final_failure(tx: Tx, row: Row[Any], crashes: int, max_crashes: int) -> Failure | None:
    # a job that this version cannot read is left to the worker that claims it next
    policy = job_of(row._mapping).retry_policy
    lost = _lost(row)
    if lost.code not in policy.retryable_errors and lost.category not in policy.retryable_errors:
        return lost
    if policy.max_attempts == 1:
        return lost
    return None if crashes < max_crashes else _poison_job(tx, row, crashes)


def _poison_job(tx: Tx, job: Row[Any], crashes: int) -> Failure:
    statement = (
        select(attempts).where(attempts.c.job_seq == job.seq).order_by(attempts.c.fence.desc()).limit(crashes)
    )
    evidence = [
        {"worker_id": row.worker_id, "fence": row.fence, "started_at": row.started_at.isoformat()}
        for row in tx.connection.execute(statement)
    ]
    return Failure(
        category=ErrorCategory.RESOURCE,
        code="poison_job",
        message=f"{crashes} workers in a row died while they had this job, and it made no progress; it is parked. "
        "Look at what it does to a worker (memory?), then retry it by hand",
        details={"attempts": evidence, "last_failure": failure_json(failure_of(job.error))},
    )
