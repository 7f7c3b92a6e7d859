"""Lanes: queues of ready jobs with equal conditions.

A lane is *active* while it may hold ready jobs; claims read active lanes only. A transaction that makes a job ready
holds a shared lock on its lane, and one that deactivates a lane an exclusive lock, so that no ready job is left in
an inactive lane.
"""

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Row, ScalarSelect, Select, exists, select, update

from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.database import PREPARED, Tx, one_of_parameter
from nsai_work.store.engine.notify import notify_ready
from nsai_work.store.schema import jobs, lanes, status_in


def activate(tx: Tx, lane_ids: Collection[int]) -> None:
    """Activate lanes. A transaction that makes jobs ready calls it before it ends."""
    if lane_ids:
        activate_rows(tx, tx.connection.execute(_lanes_by_id(tx.postgres), {"ids": sorted(lane_ids)}).all())


def activate_rows(tx: Tx, locked: Iterable[Row[Any]]) -> None:
    """Activate lanes whose rows this transaction has locked."""
    inactive = [row.id for row in locked if not row.active]
    if inactive:
        tx.connection.execute(update(lanes).where(lanes.c.id.in_(inactive)).values(active=True))


@lru_cache
def _lanes_by_id(postgres: bool) -> Select[Any]:
    columns = (lanes.c.id, lanes.c.active, *notification_columns(postgres))
    return share_locked(select(*columns), one_of_parameter(lanes.c.id, "ids", postgres=postgres))


def notification_columns(postgres: bool) -> Sequence[ColumnElement[Any]]:
    """A column that sends a notification, for a statement that locks lanes; none on SQLite.

    Nearly every such transaction makes jobs ready. After one that adds only waiting jobs, a worker claims in vain.
    """
    return [notify_ready().label("notified")] if postgres else []


def share_locked(statement: Select[Any], condition: ColumnElement[bool]) -> Select[Any]:
    """A prepared SELECT of lanes under shared locks, acquired in the order of their ids."""
    ordered = statement.where(condition).order_by(lanes.c.id)
    return ordered.with_for_update(of=lanes, key_share=True, read=True).execution_options(**PREPARED)


def deactivate_empty_lanes(tx: Tx) -> None:
    """Deactivate lanes without ready jobs, except those that another transaction has locked. Must be the only
    operation of its transaction, because other transactions wait for its locks."""
    empty = select(lanes.c.id).where(lanes.c.active, front_of(lanes.c.id).is_(None)).order_by(lanes.c.id)
    locked = tx.connection.execute(empty.with_for_update(skip_locked=True)).scalars().all()
    if locked:
        # checked again under the lock: a job may have been added between the SELECT and the lock
        still_empty = update(lanes).where(lanes.c.id.in_(locked), ~exists().where(*ready_in(lanes.c.id)))
        tx.connection.execute(still_empty.values(active=False))


def ready_in(lane_id: Any) -> tuple[Any, ...]:
    """The conditions of a claimable job of a lane, as the partial index of ready jobs states them."""
    return (jobs.c.lane_id == lane_id, status_in(JobStatus.QUEUED), jobs.c.run_at.is_(None))


def has_ready(lane_id: Any) -> ColumnElement[bool]:
    """The condition that a lane has a ready job: one index probe. For EXISTS, PostgreSQL may read all of them."""
    return front_of(lane_id).is_not(None)


def front_of(lane_id: Any) -> ScalarSelect[int]:
    """The seq of the first ready job of a lane, or null: one index probe."""
    first = select(jobs.c.seq).where(*ready_in(lane_id)).order_by(jobs.c.seq).limit(1)
    return first.correlate_except(jobs).scalar_subquery()
