"""The reason of a job's last requeue, for a ready job that has run before."""

from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Row, Select, bindparam, select

from nsai_work.store.engine.database import PREPARED, Tx
from nsai_work.store.schema import NO_STEP, events

QUEUED: Final = "job.queued"
WORKER_LOST: Final = "worker_lost"


def requeue_reason(tx: Tx, row: Row[Any]) -> str | None:
    """The reason why a ready job is in the queue again. None if it has never run, or if it was requeued for a
    delay, which is over."""
    if row.fence == 0:
        return None
    data = tx.connection.execute(_last_queued(), {"job_seq": row.seq}).scalar()
    if not isinstance(data, dict) or data.get("delay_s"):
        return None
    if "crashes" in data:
        return WORKER_LOST
    reason = data.get("reason")
    return reason if isinstance(reason, str) else None


@lru_cache
def _last_queued() -> Select[Any]:
    own = events.c.job_seq == bindparam("job_seq")
    found = select(events.c.data).where(own, NO_STEP, events.c.name == QUEUED)
    return found.order_by(events.c.seq.desc()).limit(1).execution_options(**PREPARED)
