"""Row locks on jobs."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Row, Select, select

from nsai_work.errors import JobNotFound
from nsai_work.store.engine.database import PREPARED, Tx, one_of_parameter
from nsai_work.store.schema import jobs


def lock_rows(tx: Tx, statement: Select[Any], *, skip_locked: bool = False) -> Sequence[Row[Any]]:
    """Execute a SELECT of ``nsai_jobs`` with row locks, held until this transaction ends."""
    return tx.connection.execute(statement.with_for_update(of=jobs, skip_locked=skip_locked)).all()


def lock_by_id(tx: Tx, job_ids: Iterable[str]) -> dict[str, Row[Any]]:
    """The locked rows of jobs, by id. Locks are acquired in the order of seq, which prevents deadlocks."""
    rows = tx.connection.execute(_locked_by_id(tx.postgres), {"ids": list(job_ids)})
    return {row.id: row for row in rows}


@lru_cache
def _locked_by_id(postgres: bool) -> Select[Any]:
    condition = one_of_parameter(jobs.c.id, "ids", postgres=postgres)
    statement = select(jobs).where(condition).order_by(jobs.c.seq).with_for_update(of=jobs)
    return statement.execution_options(**PREPARED)


def lock_job(tx: Tx, job_id: str, tenant_id: str | None) -> Row[Any]:
    """The locked row of a job.

    Raises:
        JobNotFound: the tenant has no job with this id.
    """
    statement = select(jobs).where(jobs.c.id == job_id)
    if tenant_id is not None:
        statement = statement.where(jobs.c.tenant_id == tenant_id)
    rows = lock_rows(tx, statement)
    if not rows:
        raise job_not_found(job_id)
    return rows[0]


def job_not_found(job_id: str) -> JobNotFound:
    """The error for an unknown id, and for an id of another tenant, so that a caller cannot distinguish the two."""
    return JobNotFound(f"there is no job {job_id!r}", details={"job_id": job_id})
