"""Deletion of blobs that no job names and that nobody has touched for a day.

Two phases, as for checkpoints: a row is ``deleting`` before the place is called, and is deleted after it. What a
failure leaves is found by the next pruning.
"""

from datetime import timedelta
from typing import Final

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, update

from nsai_work.store.blobs.rows import BlobState
from nsai_work.store.engine.database import Tx
from nsai_work.store.schema import blobs, job_blobs

UNTOUCHED_FOR: Final = timedelta(days=1)
"""The time for which a blob without a job is kept: a submit touches it, and may take hours to store its job."""


def count_unused(tx: Tx, untouched_for: timedelta = UNTOUCHED_FOR) -> int:
    """The number of blobs that would be deleted."""
    return tx.connection.execute(
        select(func.count()).select_from(blobs).where(_unused(tx, untouched_for))
    ).scalar_one()


def begin_deletion(tx: Tx, untouched_for: timedelta = UNTOUCHED_FOR, *, limit: int = 100) -> list[str]:
    """Mark up to ``limit`` blobs as deleting, and return their keys, with those of an earlier, unfinished deletion.
    Locked rows are skipped."""
    found = select(blobs.c.key).where(_unused(tx, untouched_for)).order_by(blobs.c.key).limit(limit)
    locked = tx.connection.execute(found.with_for_update(skip_locked=True)).scalars().all()
    if not locked:
        return []
    # a second statement: a job that was stored while the first one ran is not in the snapshot of that one
    still = and_(blobs.c.key.in_(locked), _unused(tx, untouched_for))
    marked = update(blobs).where(still).values(state=str(BlobState.DELETING)).returning(blobs.c.key)
    return sorted(tx.connection.execute(marked).scalars())


def _unused(tx: Tx, untouched_for: timedelta) -> ColumnElement[bool]:
    is_named = exists().where(job_blobs.c.key == blobs.c.key).correlate(blobs)
    untouched = and_(blobs.c.touched_at <= tx.now - untouched_for, ~is_named)
    return or_(blobs.c.state == BlobState.DELETING, untouched)
