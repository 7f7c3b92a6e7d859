"""What dispatch asks beside claims: what became of hinted jobs, and a note in the log of a job nobody owns."""

from collections.abc import Sequence

from pydantic import JsonValue
from sqlalchemy import select

from nsai_work.store.database import Tx
from nsai_work.store.schema import jobs
from nsai_work.store.steering import locked_job
from nsai_work.store.transitions import append_events


def epochs(tx: Tx, job_ids: Sequence[str]) -> dict[str, int]:
    """The epochs of those of the jobs that exist."""
    rows = tx.connection.execute(select(jobs.c.id, jobs.c.epoch).where(jobs.c.id.in_(list(job_ids))))
    return {row.id: row.epoch for row in rows}


def add_event(tx: Tx, job_id: str, name: str, data: dict[str, JsonValue]) -> None:
    """Append to a job's log from outside. Raises JobNotFound."""
    row = locked_job(tx, job_id, None)
    append_events(tx, [(row.seq, name, data)])
