"""Deletion of old ended jobs with their events, attempts and journals.

Two sorts of jobs are kept at any age: dependencies of a job that has not ended, and jobs with checkpoints at their
service, of which no other record would be left.
"""

from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, and_, delete, exists, func, select

from nsai_work.journal import CheckpointStatus
from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.database import Tx
from nsai_work.store.schema import checkpoints, dependencies, jobs, status_in

_ENDED: Final = tuple(status for status in JobStatus if status.ended)
STORED_STATUSES: Final = [
    str(CheckpointStatus.PENDING),
    str(CheckpointStatus.COMMITTED),
    str(CheckpointStatus.DELETING),
]


def count_old(tx: Tx, before: datetime) -> tuple[int, int]:
    """The number of jobs that ended before ``before``, and how many of them are kept for their checkpoints."""
    old = is_old(before)
    total = tx.connection.execute(select(func.count()).select_from(jobs).where(old)).scalar_one()
    kept = select(func.count()).select_from(jobs).where(old, _has_checkpoints())
    return total, tx.connection.execute(kept).scalar_one()


def prune(tx: Tx, before: datetime, *, limit: int, forget_checkpoints: bool = False) -> int:
    """Delete up to ``limit`` jobs that ended before ``before``. Returns their number. Locked jobs are skipped."""
    old = select(jobs.c.seq).where(is_old(before), ~is_needed())
    if not forget_checkpoints:
        old = old.where(~_has_checkpoints())
    locked = old.order_by(jobs.c.seq).limit(limit).with_for_update(of=jobs, skip_locked=True)
    seqs = tx.connection.execute(locked).scalars().all()
    if seqs:
        # ON DELETE CASCADE deletes the rows of the other tables
        tx.connection.execute(delete(jobs).where(tx.one_of(jobs.c.seq, seqs)))
    return len(seqs)


def is_old(before: datetime) -> ColumnElement[bool]:
    """The condition that a job ended before ``before``."""
    return and_(status_in(*_ENDED), jobs.c.completed_at < before)


def is_needed() -> ColumnElement[bool]:
    """The condition that a job depends on it that has not ended: it may read what this one has made."""
    dependent = jobs.alias("dependent")
    return (
        exists()
        .where(
            dependencies.c.needs_seq == jobs.c.seq,
            dependent.c.seq == dependencies.c.job_seq,
            dependent.c.status.in_([str(status) for status in JobStatus if not status.ended]),
        )
        .correlate(jobs)
    )


def _has_checkpoints() -> ColumnElement[bool]:
    stored = (checkpoints.c.job_seq == jobs.c.seq) & checkpoints.c.status.in_(STORED_STATUSES)
    return exists().where(stored).correlate(jobs)
