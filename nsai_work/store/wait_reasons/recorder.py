"""Records why jobs wait: the wait reason of the front job of each lane, with an event whenever it changes.

The jobs behind it wait for it: that is recorded once for each, so the cost of a long backlog is that of one small
write per job. The reasons of pending and delayed jobs are recorded with the transition that makes them wait.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, and_, or_, select

from nsai_work.store.engine.database import Tx
from nsai_work.store.lanes import front_of, ready_in
from nsai_work.store.lifecycle.locks import lock_rows
from nsai_work.store.lifecycle.wait_events import record_reason, record_reasons
from nsai_work.store.maintenance.scheduler import CLOCK_SKEW
from nsai_work.store.schema import jobs, lanes
from nsai_work.store.wait_reasons.reason import BEHIND, wait_reasons

MIN_WAIT: Final = timedelta(seconds=3)
"""A job that is claimed sooner has not waited. With the interval of sweeps it is known within five seconds."""
MAX_RECORDED: Final = 200
MAX_BEHIND: Final = 5_000
"""The number of jobs behind others that one transaction records, which keeps the writers of SQLite waiting."""
MAX_TRANSACTIONS: Final = 10
"""The number of such transactions in a sweep: two sweeps record a backlog of 100,000 jobs."""


def record_waits(tx: Tx, limit: int = MAX_RECORDED) -> int:
    """Record the wait reasons that have changed, of up to ``limit`` front jobs. Returns their number. Jobs that
    another transaction has locked are skipped."""
    fronts = _fronts(tx, limit)
    reasons = wait_reasons(tx, fronts) if fronts else {}
    changed = [row.seq for row in fronts if reasons.get(row.seq) != row.wait_reason]
    if not changed:
        return 0
    unclaimed = select(jobs.c.seq).where(jobs.c.seq.in_(changed), *ready_in(jobs.c.lane_id))
    seqs = [row.seq for row in lock_rows(tx, unclaimed.order_by(jobs.c.seq), skip_locked=True)]
    record_reasons(tx, {seq: reasons[seq] for seq in seqs})
    return len(seqs)


def record_behind(tx: Tx, limit: int) -> int:
    """Record, once for each of up to ``limit`` jobs, that it waits behind others of its lane, the oldest of a lane
    first. Returns the number of jobs. Jobs that another transaction has locked are skipped."""
    lane = select(lanes.c.id, front_of(lanes.c.id).label("front")).where(lanes.c.active).subquery()
    # in the order of the index of such jobs, which is left at the limit
    behind = (
        select(jobs.c.seq)
        .join_from(lane, jobs, and_(*ready_in(lane.c.id), jobs.c.seq > lane.c.front))
        .where(jobs.c.wait_reason.is_(None), _has_waited(tx))
        .order_by(lane.c.id, jobs.c.seq)
        .limit(limit)
    )
    seqs = tx.connection.execute(behind).scalars().all()
    if not seqs:
        return 0
    unclaimed = select(jobs.c.seq).where(tx.one_of(jobs.c.seq, seqs), *ready_in(jobs.c.lane_id))
    locked = [row.seq for row in lock_rows(tx, unclaimed.order_by(jobs.c.seq), skip_locked=True)]
    record_reason(tx, locked, BEHIND)
    return len(locked)


def _has_waited(tx: Tx) -> ColumnElement[bool]:
    return or_(jobs.c.queued_at <= tx.now - MIN_WAIT, jobs.c.queued_at > tx.now + CLOCK_SKEW)


def _fronts(tx: Tx, limit: int) -> Sequence[Row[Any]]:
    """The front jobs that have waited, those without a recorded reason first."""
    lane = select(lanes.c.id, front_of(lanes.c.id).label("front")).where(lanes.c.active).subquery()
    statement = (
        select(jobs)
        .join_from(lane, jobs, and_(*ready_in(lane.c.id), jobs.c.seq == lane.c.front))
        .where(_has_waited(tx))
        .order_by(jobs.c.wait_reason.is_not(None), jobs.c.seq)
        .limit(limit)
    )
    return tx.connection.execute(statement).all()
