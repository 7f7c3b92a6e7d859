"""What becomes due by itself: delays that are over, times that have come, deadlines that have passed."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, and_, or_, select, update

from nsai_work.errors import JobTimeout
from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.database import Tx
from nsai_work.store.lanes import activate, front_of, ready_in
from nsai_work.store.lifecycle.dependencies import after_end, settle
from nsai_work.store.lifecycle.transitions import Transition, lock_rows, move
from nsai_work.store.records import DueJobs, WakeUp
from nsai_work.store.rows import RANKS, failure_json
from nsai_work.store.schema import dependencies, jobs, lanes, status_in

CLOCK_SKEW: Final = timedelta(seconds=60)
"""How far the clocks of two machines may differ before a delay begun "in the future" means that a clock was
set back."""

_WAITING: Final = (JobStatus.PENDING, JobStatus.QUEUED)


def time_has_come(now: Any) -> ColumnElement[bool]:
    """A waiting job's ``run_at`` has passed."""
    return and_(status_in(*_WAITING), jobs.c.run_at.is_not(None), jobs.c.run_at <= now)


def clock_was_set_back(bound: Any) -> ColumnElement[bool]:
    """A delay began "in the future". ``bound`` is now and CLOCK_SKEW later."""
    return and_(status_in(*_WAITING), jobs.c.delayed_since.is_not(None), jobs.c.delayed_since > bound)


def _due(tx: Tx, status: JobStatus) -> ColumnElement[bool]:
    due = or_(time_has_come(tx.now), clock_was_set_back(tx.now + CLOCK_SKEW))
    return and_(due, jobs.c.status == str(status))


def release_delayed(tx: Tx, limit: int = 500) -> int:
    """Make queued jobs claimable whose delay is over. Waits for nobody."""
    due = select(jobs.c.seq, jobs.c.lane_id).where(_due(tx, JobStatus.QUEUED))
    rows = lock_rows(tx, due.order_by(jobs.c.run_at).limit(limit), skip_locked=True)
    if rows:
        these = update(jobs).where(jobs.c.seq.in_([row.seq for row in rows]))
        tx.connection.execute(these.values(run_at=None, delayed_since=None))
        activate(tx, {row.lane_id for row in rows})
    return len(rows)


def release_due(tx: Tx, limit: int = 500) -> DueJobs:
    """Move on what time or other jobs have decided: one sweep, at most ``limit`` jobs of each sort."""
    released = DueJobs()
    released.timed_out.extend(_time_out(tx, limit))
    release_delayed(tx, limit)
    due = select(jobs).where(_due(tx, JobStatus.PENDING))
    rows = lock_rows(tx, due.order_by(jobs.c.run_at).limit(limit), skip_locked=True)
    if rows:
        # its time has come; from here on only its dependencies keep it
        these = update(jobs).where(jobs.c.seq.in_([row.seq for row in rows]))
        tx.connection.execute(these.values(run_at=None))
    moved = settle(tx, [*(row.seq for row in rows), *_overlooked(tx, limit)])
    released.queued.extend(job_id for job_id, status in moved.items() if status is JobStatus.QUEUED)
    released.failed.extend(job_id for job_id, status in moved.items() if status is JobStatus.FAILED)
    return released


def _overlooked(tx: Tx, limit: int) -> Sequence[int]:
    """Of the oldest pending jobs those that wait for nothing any more: there should be none."""
    needed = jobs.alias("needed")
    oldest = (
        select(jobs.c.seq)
        .where(status_in(JobStatus.PENDING), jobs.c.run_at.is_(None))
        .order_by(jobs.c.seq)
        .limit(limit)
        .subquery()
    )
    open_need = (
        select(dependencies.c.job_seq)
        .join_from(dependencies, needed, needed.c.seq == dependencies.c.needs_seq)
        .where(dependencies.c.job_seq == oldest.c.seq, needed.c.status.in_(["pending", "queued", "running"]))
        .exists()
    )
    return tx.connection.execute(select(oldest.c.seq).where(~open_need)).scalars().all()


def _time_out(tx: Tx, limit: int) -> list[str]:
    late = status_in(*_WAITING) & jobs.c.deadline.is_not(None) & (jobs.c.deadline <= tx.now)
    rows = lock_rows(tx, select(jobs).where(late).order_by(jobs.c.deadline).limit(limit), skip_locked=True)
    moves = [_timeout_move(tx, row) for row in rows]
    move(tx, moves)
    if moves:
        after_end(tx, [row.seq for row in rows])
    return [row.id for row in rows]


def _timeout_move(tx: Tx, row: Row[Any]) -> Transition:
    failure = JobTimeout(
        f"the job's deadline, {row.deadline.isoformat()}, passed while it was {row.status}",
        details={"deadline": row.deadline.isoformat()},
    ).failure()
    values = {"error": failure_json(failure), "completed_at": tx.now, "run_at": None, "wait_reason": None}
    return Transition(row, JobStatus.TIMEOUT, values, {"code": failure.code, "message": failure.message})


def overdue_wake_ups(tx: Tx, *, older_than_s: float, limit: int = 200) -> list[WakeUp]:
    """Ready jobs that nobody has taken for a while: the wake-ups to publish once more.

    The front of each lane suffices: who takes one looks for the next by itself.
    """
    lane = select(lanes.c.id, front_of(lanes.c.id).label("front")).where(lanes.c.active).subquery()
    overdue = or_(
        jobs.c.queued_at <= tx.now - timedelta(seconds=older_than_s),
        # one that was queued in the future tells of a clock that was set back
        jobs.c.queued_at > tx.now + CLOCK_SKEW,
    )
    statement = (
        select(jobs.c.id, jobs.c.fence, jobs.c.rank)
        .join_from(lane, jobs, and_(*ready_in(lane.c.id), jobs.c.seq == lane.c.front))
        .where(overdue)
        .order_by(jobs.c.rank, jobs.c.seq)
        .limit(limit)
    )
    rows = tx.connection.execute(statement)
    return [WakeUp(job_id=row.id, fence=row.fence, priority=RANKS[row.rank]) for row in rows]
