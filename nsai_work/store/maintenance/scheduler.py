"""Jobs that become due: delays that are over, start times that have come, deadlines that have passed."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, and_, or_, select, update

from nsai_work.errors import JobTimeout
from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.database import Tx
from nsai_work.store.lanes import activate
from nsai_work.store.lifecycle.dependencies import settle, settle_dependents
from nsai_work.store.lifecycle.locks import lock_rows
from nsai_work.store.lifecycle.transitions import Transition, apply_transitions
from nsai_work.store.records import DueJobs
from nsai_work.store.rows import failure_json
from nsai_work.store.schema import dependencies, jobs, status_in

CLOCK_SKEW: Final = timedelta(seconds=60)
"""The largest expected difference between the clocks of two machines. A delay that began further in the future
means that a clock was set back."""

_WAITING: Final = (JobStatus.PENDING, JobStatus.QUEUED)


def run_at_has_passed(now: Any) -> ColumnElement[bool]:
    """The condition that the ``run_at`` of a waiting job has passed."""
    return and_(status_in(*_WAITING), jobs.c.run_at.is_not(None), jobs.c.run_at <= now)


def clock_was_set_back(bound: Any) -> ColumnElement[bool]:
    """The condition that a delay began in the future. ``bound`` is CLOCK_SKEW from now."""
    return and_(status_in(*_WAITING), jobs.c.delayed_since.is_not(None), jobs.c.delayed_since > bound)


def deadline_has_passed(now: Any) -> ColumnElement[bool]:
    """The condition that the deadline of a waiting job has passed."""
    return and_(status_in(*_WAITING), jobs.c.deadline.is_not(None), jobs.c.deadline <= now)


def time_to_deadline(tx: Tx, job: Job) -> float | None:
    """The seconds from the begin of the transaction to a job's deadline; None if it has none."""
    deadline = job.constraints.deadline
    return None if deadline is None else (deadline - tx.now).total_seconds()


def _due(tx: Tx, status: JobStatus) -> ColumnElement[bool]:
    due = or_(run_at_has_passed(tx.now), clock_was_set_back(tx.now + CLOCK_SKEW))
    return and_(due, jobs.c.status == str(status))


def release_delayed(tx: Tx, limit: int = 500) -> int:
    """Make queued jobs claimable whose delay is over. Returns their number. Locked jobs are skipped."""
    due = select(jobs.c.seq, jobs.c.lane_id).where(_due(tx, JobStatus.QUEUED))
    rows = lock_rows(tx, due.order_by(jobs.c.run_at).limit(limit), skip_locked=True)
    if rows:
        cleared = update(jobs).where(jobs.c.seq.in_([row.seq for row in rows]))
        tx.connection.execute(cleared.values(run_at=None, delayed_since=None, wait_reason=None))
        activate(tx, {row.lane_id for row in rows})
    return len(rows)


def release_due(tx: Tx, limit: int = 500) -> DueJobs:
    """Queue the jobs that are due and end those past their deadline, at most ``limit`` jobs of each sort."""
    due_jobs = DueJobs()
    due_jobs.timed_out.extend(time_out(tx, limit))
    release_delayed(tx, limit)
    due = select(jobs).where(_due(tx, JobStatus.PENDING))
    rows = lock_rows(tx, due.order_by(jobs.c.run_at).limit(limit), skip_locked=True)
    if rows:
        # from now on they wait only for their dependencies
        cleared = update(jobs).where(jobs.c.seq.in_([row.seq for row in rows]))
        tx.connection.execute(cleared.values(run_at=None))
    settled = settle(tx, [*(row.seq for row in rows), *_stuck_pending(tx, limit)])
    due_jobs.queued.extend(job_id for job_id, status in settled.items() if status is JobStatus.QUEUED)
    due_jobs.failed.extend(job_id for job_id, status in settled.items() if status is JobStatus.FAILED)
    return due_jobs


def _stuck_pending(tx: Tx, limit: int) -> Sequence[int]:
    """The oldest pending jobs whose dependencies have all ended. None is expected: it is a safety net."""
    needed = jobs.alias("needed")
    oldest = (
        select(jobs.c.seq)
        .where(status_in(JobStatus.PENDING), jobs.c.run_at.is_(None))
        .order_by(jobs.c.seq)
        .limit(limit)
        .subquery()
    )
    open_dependency = (
        select(dependencies.c.job_seq)
        .join_from(dependencies, needed, needed.c.seq == dependencies.c.needs_seq)
        .where(dependencies.c.job_seq == oldest.c.seq, needed.c.status.in_(["pending", "queued", "running"]))
        .exists()
    )
    return tx.connection.execute(select(oldest.c.seq).where(~open_dependency)).scalars().all()


def time_out(tx: Tx, limit: int = 500) -> list[str]:
    """End waiting jobs whose deadline has passed. Returns their ids. Locked jobs are skipped."""
    late = select(jobs).where(deadline_has_passed(tx.now))
    rows = lock_rows(tx, late.order_by(jobs.c.deadline).limit(limit), skip_locked=True)
    apply_transitions(tx, [_timeout(tx, row) for row in rows])
    if rows:
        settle_dependents(tx, [row.seq for row in rows])
    return [row.id for row in rows]


def _timeout(tx: Tx, row: Row[Any]) -> Transition:
    why = f": {row.wait_reason}" if row.wait_reason else ""
    failure = JobTimeout(
        f"the job's deadline, {row.deadline.isoformat()}, passed while it was {row.status}{why}",
        details={"deadline": row.deadline.isoformat(), "wait_reason": row.wait_reason},
    ).failure()
    values = {"error": failure_json(failure), "completed_at": tx.now, "run_at": None, "wait_reason": None}
    return Transition(row, JobStatus.TIMEOUT, values, {"code": failure.code, "message": failure.message})
