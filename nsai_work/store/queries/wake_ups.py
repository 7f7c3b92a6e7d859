"""What dispatch asks beside claims: what became of hinted jobs, who is to stop, and a note from outside."""

from collections.abc import Sequence

from pydantic import JsonValue
from sqlalchemy import select

from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.database import Tx
from nsai_work.store.lifecycle.cancel_retry import locked_job
from nsai_work.store.lifecycle.transitions import append_events
from nsai_work.store.schema import jobs, status_in


def fences(tx: Tx, job_ids: Sequence[str]) -> dict[str, int]:
    """The fences of those of the jobs that exist."""
    rows = tx.connection.execute(select(jobs.c.id, jobs.c.fence).where(jobs.c.id.in_(list(job_ids))))
    return {row.id: row.fence for row in rows}


def add_event(tx: Tx, job_id: str, name: str, data: dict[str, JsonValue]) -> None:
    """Append to a job's log from outside. Raises JobNotFound."""
    row = locked_job(tx, job_id, None)
    append_events(tx, [(row.seq, name, data)])


def cancel_requests(tx: Tx, worker_id: str) -> frozenset[str]:
    """The jobs of this worker that somebody wants to stop."""
    mine = status_in(JobStatus.RUNNING) & (jobs.c.worker_id == worker_id) & jobs.c.cancel_requested_at.is_not(None)
    return frozenset(tx.connection.execute(select(jobs.c.id).where(mine)).scalars())
