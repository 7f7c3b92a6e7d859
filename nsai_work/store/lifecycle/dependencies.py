"""Jobs that wait for other jobs: promoted when all have succeeded, failed when one has not."""

from collections import defaultdict
from collections.abc import Collection
from functools import lru_cache
from typing import Any

from sqlalchemy import Row, Select, select

from crucible.errors import ErrorCategory, Failure
from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.database import PREPARED, Tx, one_of_these
from nsai_work.store.lifecycle.transitions import Transition, lock_rows, move
from nsai_work.store.rows import failure_json
from nsai_work.store.schema import dependencies, jobs, status_in


def after_end(tx: Tx, ended_seqs: Collection[int]) -> dict[str, JobStatus]:
    """Settle the jobs that depend on these, which have just ended in this transaction."""
    waiting = tx.connection.execute(_waiting_for(tx.postgres), {"ended": list(ended_seqs)}).scalars().all()
    return settle(tx, waiting) if waiting else {}


@lru_cache
def _waiting_for(postgres: bool) -> Select[int]:
    these = one_of_these(dependencies.c.needs_seq, "ended", postgres=postgres)
    return select(dependencies.c.job_seq).where(these).distinct().execution_options(**PREPARED)


def settle(tx: Tx, seqs: Collection[int]) -> dict[str, JobStatus]:
    """Move pending jobs on if what they wait for has been decided; where each went, by job id.

    The rows are locked before their dependencies are read: of two dependencies that end at the same moment, the
    second sees the first.
    """
    statement = select(jobs).where(jobs.c.seq.in_(list(seqs)), status_in(JobStatus.PENDING)).order_by(jobs.c.seq)
    rows = lock_rows(tx, statement)
    if not rows:
        return {}
    needed = _needed(tx, [row.seq for row in rows])
    moves = [one for row in rows if (one := _decide(tx, row, needed[row.seq])) is not None]
    move(tx, moves)
    moved = {one.row.id: one.status for one in moves}
    failed = [one.row.seq for one in moves if one.status is JobStatus.FAILED]
    return moved | (after_end(tx, failed) if failed else {})


def _needed(tx: Tx, seqs: Collection[int]) -> dict[int, list[Row[Any]]]:
    statement = (
        select(dependencies.c.job_seq, jobs.c.id, jobs.c.status)
        .join_from(dependencies, jobs, jobs.c.seq == dependencies.c.needs_seq)
        .where(dependencies.c.job_seq.in_(list(seqs)))
    )
    needed: defaultdict[int, list[Any]] = defaultdict(list)
    for row in tx.connection.execute(statement):
        needed[row.job_seq].append(row)
    return needed


def _decide(tx: Tx, row: Row[Any], needed: list[Row[Any]]) -> Transition | None:
    broken = [other for other in needed if JobStatus(other.status).ended and other.status != JobStatus.SUCCEEDED]
    if broken:
        failure = dependency_failure([(other.id, other.status) for other in broken])
        values = {"completed_at": tx.now, "run_at": None, "error": failure_json(failure)}
        return Transition(row, JobStatus.FAILED, values, {"code": failure.code, "message": failure.message})
    if any(other.status != JobStatus.SUCCEEDED for other in needed):
        return None
    if row.run_at is not None and row.run_at > tx.now:
        return None
    return Transition(row, JobStatus.QUEUED, {"queued_at": tx.now, "run_at": None})


def dependency_failure(broken: list[tuple[str, str]]) -> Failure:
    """Why a job cannot run any more."""
    said = ", ".join(f"{job_id} ({status})" for job_id, status in broken)
    return Failure(
        category=ErrorCategory.RESOURCE,
        code="dependency_failed",
        message=f"a job that this one depends on did not succeed: {said}; retry that one, then this one",
        details={"depends_on": [job_id for job_id, _ in broken]},
    )
