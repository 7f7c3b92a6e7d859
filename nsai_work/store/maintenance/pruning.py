"""Forgetting old jobs: an ended job goes with its events, attempts and journal.

Two sorts stay, however old: a job that another one still waits for, and a job with checkpoints at its service,
which nobody could account for any more.
"""

from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, and_, delete, exists, func, select

from nsai_work.journal import CheckpointStatus
from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.database import Tx
from nsai_work.store.schema import checkpoints, dependencies, jobs, status_in

_ENDED: Final = tuple(status for status in JobStatus if status.ended)
_AT_THE_SERVICE: Final = [
    str(CheckpointStatus.PENDING),
    str(CheckpointStatus.COMMITTED),
    str(CheckpointStatus.DELETING),
]


def count_old(tx: Tx, before: datetime) -> tuple[int, int]:
    """How many ended jobs are older than this, and how many of them stay because of their checkpoints."""
    old = _old(before)
    all_of_them = tx.connection.execute(select(func.count()).select_from(jobs).where(old)).scalar_one()
    kept = select(func.count()).select_from(jobs).where(old, _has_checkpoints())
    return all_of_them, tx.connection.execute(kept).scalar_one()


def prune(tx: Tx, before: datetime, *, limit: int, forget_checkpoints: bool = False) -> int:
    """Forget up to ``limit`` jobs that ended before this; how many there were. Waits for nobody."""
    old = select(jobs.c.seq).where(_old(before), ~_is_needed())
    if not forget_checkpoints:
        old = old.where(~_has_checkpoints())
    locked = old.order_by(jobs.c.seq).limit(limit).with_for_update(of=jobs, skip_locked=True)
    seqs = tx.connection.execute(locked).scalars().all()
    if seqs:
        # all other tables go along: their rows refer to this one
        tx.connection.execute(delete(jobs).where(tx.one_of(jobs.c.seq, seqs)))
    return len(seqs)


def _old(before: datetime) -> ColumnElement[bool]:
    return and_(status_in(*_ENDED), jobs.c.completed_at < before)


def _is_needed() -> ColumnElement[bool]:
    waiting = jobs.alias("waiting")
    return (
        exists()
        .where(
            dependencies.c.needs_seq == jobs.c.seq,
            waiting.c.seq == dependencies.c.job_seq,
            waiting.c.status == str(JobStatus.PENDING),
        )
        .correlate(jobs)
    )


def _has_checkpoints() -> ColumnElement[bool]:
    this = (checkpoints.c.job_seq == jobs.c.seq) & checkpoints.c.status.in_(_AT_THE_SERVICE)
    return exists().where(this).correlate(jobs)
