"""Records why jobs wait: the wait reason of the front job of each lane, with an event whenever it changes.

The jobs behind it wait for it. Those that are submitted so, or queued by their dependencies, say it from the start;
here it is recorded once for each of the others. The reasons of pending and delayed jobs are recorded with the
transition that makes them wait.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, and_, insert, literal, or_, select, true, update

from nsai_work.store.engine.database import Tx
from nsai_work.store.lanes import front_of, ready_in
from nsai_work.store.lifecycle.locks import lock_rows
from nsai_work.store.lifecycle.wait_events import BEHIND, WAITING, record_reasons
from nsai_work.store.maintenance.scheduler import CLOCK_SKEW
from nsai_work.store.schema import events, jobs, lanes
from nsai_work.store.wait_reasons.reason import wait_reasons

MIN_WAIT: Final = timedelta(seconds=2)
"""A job that is claimed sooner has not waited. With the interval of sweeps, and the age of what metrics read, its
reason is known within four seconds."""
MAX_RECORDED: Final = 200
"""The number of front jobs that one transaction examines."""
MAX_BEHIND: Final = 5_000
"""The number of jobs behind others that one transaction records, which keeps the writers of SQLite waiting."""
MAX_TRANSACTIONS: Final = 10
"""The number of transactions of each sort in a sweep."""


@dataclass(slots=True)
class FrontRecorder:
    """Records the wait reasons of front jobs, a number of them at a time, in turn. ``after`` is the seq of the last
    one that had a reason already."""

    after: int = 0

    def record(self, tx: Tx, limit: int = MAX_RECORDED) -> bool:
        """Record the wait reasons that have changed, of up to ``limit`` front jobs. Returns whether more may be
        without a reason. Jobs that another transaction has locked are skipped."""
        fronts = _fronts(tx, limit, self.after)
        reasons = wait_reasons(tx, fronts) if fronts else {}
        changed = [row.seq for row in fronts if reasons.get(row.seq) != row.wait_reason]
        if changed:
            unclaimed = select(jobs.c.seq).where(jobs.c.seq.in_(changed), *ready_in(jobs.c.lane_id))
            seqs = [row.seq for row in lock_rows(tx, unclaimed.order_by(jobs.c.seq), skip_locked=True)]
            record_reasons(tx, {seq: reasons[seq] for seq in seqs})
        explained = [row.seq for row in fronts if row.wait_reason is not None]
        self.after = explained[-1] if explained else self.after
        return len(fronts) == limit and not explained


def record_behind(tx: Tx, limit: int) -> int:
    """Record, once for each of up to ``limit`` jobs, that it waits behind others of its lane, the oldest of a lane
    first. Returns the number of jobs. Jobs that another transaction has locked are skipped."""
    event = (literal(tx.now, events.c.at.type), literal(WAITING), literal({"reason": BEHIND}, events.c.data.type))
    into = insert(events).execution_options(preserve_rowcount=True)
    columns = ["job_seq", "at", "name", "data"]
    if not tx.postgres:
        behind = _behind(tx, limit)
        recorded = tx.connection.execute(into.from_select(columns, behind.add_columns(*event)))
        tx.connection.execute(update(jobs).where(jobs.c.seq.in_(behind)).values(wait_reason=BEHIND))
        return recorded.rowcount
    locked = _locked_behind(tx, limit).cte("behind")
    changed = update(jobs).where(jobs.c.seq == locked.c.seq).values(wait_reason=BEHIND).returning(jobs.c.seq)
    written = changed.cte("changed")
    in_order = select(written.c.seq, *event).order_by(written.c.seq)
    return tx.connection.execute(into.from_select(columns, in_order)).rowcount


def _behind(tx: Tx, limit: int) -> Select[int]:
    lane = _lanes_with_fronts().subquery()
    # in the order of the index of such jobs, which is left at the limit
    found = select(jobs.c.seq).join_from(lane, jobs, jobs.c.lane_id == lane.c.id)
    return found.where(*_unexplained(tx, lane.c.id, lane.c.front)).order_by(lane.c.id, jobs.c.seq).limit(limit)


def _locked_behind(tx: Tx, limit: int) -> Select[int]:
    """As ``_behind``, by its index for each lane, which PostgreSQL must not think it knows better: after a large
    submit its statistics are old."""
    lane = _lanes_with_fronts().cte("lane").prefix_with("MATERIALIZED")
    of_lane = select(jobs.c.seq).where(*_unexplained(tx, lane.c.id, lane.c.front)).order_by(jobs.c.seq).limit(limit)
    locked = of_lane.correlate(lane).with_for_update(skip_locked=True).lateral("of_lane")
    return select(locked.c.seq).join_from(lane, locked, true()).limit(limit)


def _lanes_with_fronts() -> Select[Any]:
    return select(lanes.c.id, front_of(lanes.c.id).label("front")).where(lanes.c.active).order_by(lanes.c.id)


def _unexplained(tx: Tx, lane_id: Any, front: Any) -> tuple[ColumnElement[bool], ...]:
    return (*ready_in(lane_id), jobs.c.seq > front, jobs.c.wait_reason.is_(None), _has_waited(tx))


def _has_waited(tx: Tx) -> ColumnElement[bool]:
    return or_(jobs.c.queued_at <= tx.now - MIN_WAIT, jobs.c.queued_at > tx.now + CLOCK_SKEW)


def _fronts(tx: Tx, limit: int, after: int) -> Sequence[Row[Any]]:
    """The front jobs that have waited: those without a recorded reason, then those after a job, then the others."""
    lane = _lanes_with_fronts().subquery()
    explained = jobs.c.wait_reason.is_not(None)
    statement = (
        select(jobs)
        .join_from(lane, jobs, and_(*ready_in(lane.c.id), jobs.c.seq == lane.c.front))
        .where(_has_waited(tx))
        .order_by(explained, and_(explained, jobs.c.seq <= after), jobs.c.seq)
        .limit(limit)
    )
    return tx.connection.execute(statement).all()
