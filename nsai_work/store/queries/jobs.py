"""Queries about jobs: their state, events and attempts."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import Row, Select, select

from crucible.errors import InvalidRequest
from nsai_work.errors import JobNotFound
from nsai_work.identifiers import is_job_id
from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus
from nsai_work.store.damaged import DamagedJob
from nsai_work.store.engine.database import Tx
from nsai_work.store.lifecycle.locks import job_not_found
from nsai_work.store.records import AttemptRow, EventRow, JobFilter
from nsai_work.store.rows import failure_of, job_of, select_jobs
from nsai_work.store.schema import attempts, events, jobs, status_in, tags
from nsai_work.store.wait_reasons.reason import orphan_reasons, wait_reasons

MAX_LISTED_MATCHES: Final = 5
MIN_PART_LENGTH: Final = 4


def get(tx: Tx, job_id: str, tenant_id: str | None = None) -> Job:
    """A job.

    Raises:
        JobNotFound: the tenant has no job with this id.
    """
    statement = select_jobs().where(jobs.c.id == job_id)
    if tenant_id is not None:
        statement = statement.where(jobs.c.tenant_id == tenant_id)
    row = tx.connection.execute(statement).first()
    if row is None:
        raise job_not_found(job_id)
    return _with_reasons(tx, [row], count=True)[0]


def seq_of(tx: Tx, job_id: str, tenant_id: str | None = None) -> int:
    """The sequence number of a job. Raises as ``get``."""
    statement = select(jobs.c.seq).where(jobs.c.id == job_id)
    if tenant_id is not None:
        statement = statement.where(jobs.c.tenant_id == tenant_id)
    seq: int | None = tx.connection.execute(statement).scalar()
    if seq is None:
        raise job_not_found(job_id)
    return seq


def list_jobs(tx: Tx, conditions: JobFilter, *, limit: int = 100, after: str | None = None) -> list[Job]:
    """A page of jobs, the newest first. ``after`` is the id of the last job on the previous page.

    Raises:
        JobNotFound: no job has the id ``after``.
    """
    statement = _filtered(select_jobs(), conditions).order_by(jobs.c.seq.desc()).limit(limit)
    if after is not None:
        statement = statement.where(jobs.c.seq < seq_of(tx, after))
    return _with_reasons(tx, tx.connection.execute(statement).all())


def find(tx: Tx, text: str) -> Job:
    """Return the job with this ID, or the only one whose ID starts or ends with ``text``. Looks at all jobs.

    Raises:
        JobNotFound: no job matches.
        InvalidRequest: several jobs match.
    """
    try:
        return get(tx, text)
    except JobNotFound:
        # too short a part could match some other job after a typing mistake
        if is_job_id(text):
            raise
        if len(text) < MIN_PART_LENGTH:
            short = f"a part of an ID has at least {MIN_PART_LENGTH} characters"
            raise JobNotFound(f"ID: no job has the ID {text!r}; {short}") from None
    matches = _ids_like(tx, text, MAX_LISTED_MATCHES + 1)
    if not matches:
        raise JobNotFound(f"ID: no job has the ID {text!r}, and no ID starts or ends with it")
    if len(matches) > 1:
        shown = ", ".join(matches[:MAX_LISTED_MATCHES])
        count = len(matches) if len(matches) <= MAX_LISTED_MATCHES else f"more than {MAX_LISTED_MATCHES}"
        raise InvalidRequest.of("ID", text, f"it matches {count} jobs ({shown}); give more characters")
    return get(tx, matches[0])


def _ids_like(tx: Tx, part: str, limit: int) -> list[str]:
    """The ids that start or end with a text, the newest first."""
    found = jobs.c.id.startswith(part, autoescape=True) | jobs.c.id.endswith(part, autoescape=True)
    return list(
        tx.connection.execute(select(jobs.c.id).where(found).order_by(jobs.c.seq.desc()).limit(limit)).scalars()
    )


def _filtered(statement: Select[Any], conditions: JobFilter) -> Select[Any]:
    for name in ("status", "kind", "backend", "tenant_id", "namespace", "parent_id"):
        value = getattr(conditions, name)
        if value is not None:
            statement = statement.where(jobs.c[name] == str(value))
    if conditions.priority is not None:
        statement = statement.where(jobs.c.rank == conditions.priority.rank)
    if conditions.tag is not None:
        statement = statement.where(jobs.c.seq.in_(select(tags.c.job_seq).where(tags.c.tag == conditions.tag)))
    return statement


def _with_reasons(tx: Tx, rows: Sequence[Row[Any]], *, count: bool = False) -> list[Job]:
    waiting = [row for row in rows if row.status in (JobStatus.PENDING, JobStatus.QUEUED)]
    reasons = wait_reasons(tx, waiting, count=count) if waiting else {}
    running = [row for row in rows if row.status == JobStatus.RUNNING and row.wait_reason is None]
    if running:
        reasons |= orphan_reasons(tx, running)
    return [job_of(row._mapping, wait_reason=reasons.get(row.seq, row.wait_reason)) for row in rows]


def job_events(tx: Tx, job_id: str, *, after: int = 0, limit: int = 1000) -> list[EventRow]:
    """The events of a job with a seq above ``after``, in order.

    Raises:
        JobNotFound: no job has the id.
    """
    seq = seq_of(tx, job_id)
    statement = select(events).where(events.c.job_seq == seq, events.c.seq > after).order_by(events.c.seq)
    rows = tx.connection.execute(statement.limit(limit))
    return [EventRow(row.seq, job_id, row.at, row.name, _event_data(row)) for row in rows]


def all_events(tx: Tx, *, after: int = 0, limit: int = 1000) -> list[EventRow]:
    """The events of all jobs with a seq above ``after``, in order.

    Across jobs the order of commits differs: an event may appear after one with a higher seq has been read.
    """
    statement = select(events, jobs.c.id.label("job_id")).join_from(events, jobs, jobs.c.seq == events.c.job_seq)
    rows = tx.connection.execute(statement.where(events.c.seq > after).order_by(events.c.seq).limit(limit))
    return event_rows(rows)


def event_rows(rows: Iterable[Row[Any]]) -> list[EventRow]:
    """The events of rows that have the job's id as ``job_id``."""
    return [EventRow(row.seq, row.job_id, row.at, row.name, _event_data(row)) for row in rows]


def _event_data(row: Row[Any]) -> dict[str, Any]:
    return row.data if isinstance(row.data, dict) else {"unreadable": row.data}


def job_attempts(tx: Tx, job_id: str) -> list[AttemptRow]:
    """The attempts at a job, in order. Raises JobNotFound."""
    seq = seq_of(tx, job_id)
    rows = tx.connection.execute(select(attempts).where(attempts.c.job_seq == seq).order_by(attempts.c.fence))
    return [
        AttemptRow(
            fence=row.fence,
            attempt=row.attempt,
            worker_id=row.worker_id,
            backend=row.backend,
            started_at=row.started_at,
            ended_at=row.ended_at,
            outcome=row.outcome,
            failure=failure_of(row.failure),
        )
        for row in rows
    ]


def running_elsewhere(tx: Tx, worker_id: str, limit: int) -> list[Job]:
    """The oldest running jobs of other workers. Damaged ones are left out."""
    others = status_in(JobStatus.RUNNING) & (jobs.c.worker_id != worker_id)
    rows = tx.connection.execute(select_jobs().where(others).order_by(jobs.c.seq).limit(limit))
    found = (job_of(row._mapping) for row in rows)
    return [job for job in found if not isinstance(job, DamagedJob)]


def cancel_requests(tx: Tx, worker_id: str) -> frozenset[str]:
    """The ids of a worker's running jobs whose cancellation is requested."""
    own = status_in(JobStatus.RUNNING) & (jobs.c.worker_id == worker_id) & jobs.c.cancel_requested_at.is_not(None)
    return frozenset(tx.connection.execute(select(jobs.c.id).where(own)).scalars())
