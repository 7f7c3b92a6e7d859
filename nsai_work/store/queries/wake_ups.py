"""Queries for wake-ups: overdue ones to publish again, and the fencing tokens that identify stale ones."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pydantic import ValidationError
from sqlalchemy import and_, or_, select

from nsai_work.store.damaged import priority_of
from nsai_work.store.engine.database import Tx
from nsai_work.store.lanes import front_of, ready_in
from nsai_work.store.maintenance.scheduler import CLOCK_SKEW
from nsai_work.store.records import WakeUp
from nsai_work.store.schema import jobs, lanes


def fences(tx: Tx, job_ids: Sequence[str]) -> dict[str, int]:
    """The current fencing tokens of jobs, by id. Unknown ids are left out."""
    rows = tx.connection.execute(select(jobs.c.id, jobs.c.fence).where(jobs.c.id.in_(list(job_ids))))
    return {row.id: row.fence for row in rows}


def overdue_wake_ups(tx: Tx, *, older_than_s: float, limit: int = 200) -> list[WakeUp]:
    """Wake-ups to publish again: for ready jobs that have not been claimed for ``older_than_s``.

    Only the front job of each lane: the worker that claims it claims the jobs behind it too.
    """
    lane = select(lanes.c.id, front_of(lanes.c.id).label("front")).where(lanes.c.active).subquery()
    overdue = or_(
        jobs.c.queued_at <= tx.now - timedelta(seconds=older_than_s),
        # queued in the future: a clock was set back
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
    return [wake for row in rows if (wake := _wake_up(row)) is not None]


def _wake_up(row: Any) -> WakeUp | None:
    """The wake-up of a row; None if it has no valid one: workers find the job by polling."""
    try:
        return WakeUp(job_id=row.id, fence=row.fence, priority=priority_of(row.rank))
    except ValidationError:
        return None
