"""Recorded wait reasons: a column of the job, and an event."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from nsai_work.store.engine.bulk_write import BulkWrite
from nsai_work.store.engine.database import Tx
from nsai_work.store.lifecycle.events import plan_events
from nsai_work.store.schema import jobs

WAITING: Final = "job.waiting"
BEHIND: Final = "other jobs are before it"


def record_reasons(tx: Tx, reasons: Mapping[int, str]) -> None:
    """Record the wait reasons of locked jobs, by seq."""
    bulk = BulkWrite()
    bulk.update(jobs, [{"seq": seq, "wait_reason": reason} for seq, reason in reasons.items()], by=("seq",))
    plan_events(tx, [(seq, WAITING, {"reason": reason}) for seq, reason in reasons.items()], bulk)
    bulk.execute(tx)


def not_before(run_at: datetime) -> str:
    """The reason of a job whose time has not come."""
    return f"not before {run_at.isoformat(timespec='seconds')}"


def depends_on(names: Sequence[str]) -> str:
    """The reason of a job whose dependencies have not ended."""
    return f"depends on {', '.join(names)}"
