"""The state of the queue: numbers of jobs, depths by priority, and why jobs wait."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from sqlalchemy import func, select

from nsai_work.job import Priority
from nsai_work.lifecycle import JobStatus
from nsai_work.store.claim.limits import limits_in_use
from nsai_work.store.damaged import priority_of
from nsai_work.store.engine.database import Tx
from nsai_work.store.records import JobCount, QueueCount, QueueStatus, WaitCount
from nsai_work.store.rows import select_jobs
from nsai_work.store.schema import jobs, status_in
from nsai_work.store.wait_reasons.reason import wait_reasons

MAX_EXPLAINED: Final = 500
"""The number of waiting jobs, the oldest, whose reasons are computed."""

_WAITING: Final = status_in(JobStatus.PENDING, JobStatus.QUEUED)


def job_counts(tx: Tx) -> list[JobCount]:
    """The number of jobs of each status, kind and backend."""
    by = (jobs.c.status, jobs.c.kind, jobs.c.backend)
    rows = tx.connection.execute(select(*by, func.count().label("number")).group_by(*by).order_by(*by))
    return [JobCount(row.status, row.kind, row.backend, row.number) for row in rows]


def queue_depths(tx: Tx) -> list[QueueCount]:
    """The waiting jobs of each priority, the highest first. A job that is not due has no age yet."""
    due = jobs.c.run_at.is_(None) & status_in(JobStatus.QUEUED)
    counts = select(jobs.c.rank, func.count().label("number")).where(_WAITING).group_by(jobs.c.rank)
    fronts = select(jobs.c.rank, func.count().label("number"), func.min(jobs.c.queued_at).label("oldest"))
    waiting: Counter[Priority] = Counter()
    for row in tx.connection.execute(counts):
        waiting[priority_of(row.rank)] += row.number
    ready = {priority_of(row.rank): row for row in tx.connection.execute(fronts.where(due).group_by(jobs.c.rank))}
    depths = []
    for priority in Priority:
        found = ready.get(priority)
        number = 0 if found is None else found.number
        oldest = None if found is None else found.oldest
        # a clock that was set back must not show as a negative age
        age_s = 0.0 if oldest is None else max((tx.now - oldest).total_seconds(), 0.0)
        depths.append(QueueCount(priority, number, waiting[priority] - number, age_s))
    return depths


def wait_counts(tx: Tx) -> list[WaitCount]:
    """The reasons of the oldest ``MAX_EXPLAINED`` waiting jobs, the most frequent first."""
    rows = tx.connection.execute(select_jobs().where(_WAITING).order_by(jobs.c.seq).limit(MAX_EXPLAINED)).all()
    reasons: Sequence[str] = list(wait_reasons(tx, rows).values()) if rows else []
    return [WaitCount(reason, number) for reason, number in Counter(reasons).most_common()]


def queue_state(tx: Tx) -> QueueStatus:
    """The depths, the limits with their use, and the reasons, as of one moment."""
    return QueueStatus(queue_depths(tx), limits_in_use(tx), wait_counts(tx))
