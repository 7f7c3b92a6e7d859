"""Dependencies: a job is queued once all jobs that it depends on have succeeded, and fails if one did not."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Row, Select, select

from crucible.errors import ErrorCategory, Failure
from nsai_work.lifecycle import JobStatus
from nsai_work.store.damaged import status_of
from nsai_work.store.engine.database import PREPARED, Tx, one_of_parameter
from nsai_work.store.lifecycle.locks import lock_rows
from nsai_work.store.lifecycle.transitions import Transition, apply_transitions
from nsai_work.store.lifecycle.wait_events import BEHIND, depends_on, not_before, record_reasons
from nsai_work.store.rows import failure_json
from nsai_work.store.schema import dependencies, jobs, status_in


def settle_dependents(tx: Tx, ended_seqs: Collection[int]) -> dict[str, JobStatus]:
    """Settle the dependents of jobs that ended in this transaction."""
    dependents = tx.connection.execute(_dependents_of(tx.postgres), {"ended": list(ended_seqs)}).scalars().all()
    return settle(tx, dependents) if dependents else {}


@lru_cache
def _dependents_of(postgres: bool) -> Select[int]:
    condition = one_of_parameter(dependencies.c.needs_seq, "ended", postgres=postgres)
    return select(dependencies.c.job_seq).where(condition).distinct().execution_options(**PREPARED)


def settle(tx: Tx, seqs: Collection[int]) -> dict[str, JobStatus]:
    """Queue or fail pending jobs whose dependencies allow it. Returns the new status by job id.

    The rows are locked before their dependencies are read: of two dependencies that end concurrently, the second
    sees the first.
    """
    statement = select(jobs).where(tx.one_of(jobs.c.seq, seqs), status_in(JobStatus.PENDING)).order_by(jobs.c.seq)
    rows = lock_rows(tx, statement)
    if not rows:
        return {}
    needed = needed_by(tx, [row.seq for row in rows])
    transitions = _transitions(tx, rows, needed)
    apply_transitions(tx, transitions)
    moved = {transition.row.seq for transition in transitions}
    _record_reasons(tx, [row for row in rows if row.seq not in moved], needed)
    settled = {transition.row.id: transition.status for transition in transitions}
    failed = [transition.row.seq for transition in transitions if transition.status is JobStatus.FAILED]
    return settled | (settle_dependents(tx, failed) if failed else {})


def _record_reasons(tx: Tx, pending: Sequence[Row[Any]], needed: Mapping[int, Sequence[Row[Any]]]) -> None:
    """Record what pending jobs still wait for, if that has changed."""
    reasons: dict[int, str] = {}
    for row in pending:
        left = [other.id for other in needed[row.seq] if other.status != JobStatus.SUCCEEDED]
        reason = depends_on(left) if row.run_at is None else not_before(row.run_at)
        if reason != row.wait_reason:
            reasons[row.seq] = reason
    if reasons:
        record_reasons(tx, reasons)


def needed_by(tx: Tx, seqs: Collection[int], *, lock: bool = False) -> dict[int, list[Row[Any]]]:
    """The id and status of each job that these depend on, by seq. With ``lock``, none of them ends meanwhile."""
    statement = (
        select(dependencies.c.job_seq, jobs.c.id, jobs.c.status)
        .join_from(dependencies, jobs, jobs.c.seq == dependencies.c.needs_seq)
        .where(tx.one_of(dependencies.c.job_seq, seqs))
        .order_by(jobs.c.seq)
    )
    if lock:
        statement = statement.with_for_update(of=jobs, read=True)
    needed: defaultdict[int, list[Any]] = defaultdict(list)
    for row in tx.connection.execute(statement):
        needed[row.job_seq].append(row)
    return needed


def _transitions(tx: Tx, rows: Sequence[Row[Any]], needed: Mapping[int, list[Row[Any]]]) -> list[Transition]:
    """The transitions of pending jobs, in order. Those queued behind others of them say so."""
    transitions: list[Transition] = []
    lane_ids: set[int] = set()
    for row in rows:
        found = _transition(tx, row, needed[row.seq], behind=row.lane_id in lane_ids)
        if found is not None:
            transitions.append(found)
            if found.status is JobStatus.QUEUED:
                lane_ids.add(row.lane_id)
    return transitions


def _transition(tx: Tx, row: Row[Any], needed: list[Row[Any]], *, behind: bool) -> Transition | None:
    broken = unsuccessful(needed)
    if broken:
        failure = dependency_failure([(other.id, other.status) for other in broken])
        values = {"completed_at": tx.now, "run_at": None, "wait_reason": None, "error": failure_json(failure)}
        return Transition(row, JobStatus.FAILED, values, {"code": failure.code, "message": failure.message})
    if any(other.status != JobStatus.SUCCEEDED for other in needed):
        return None
    if row.run_at is not None and row.run_at > tx.now:
        return None
    reason = BEHIND if behind else None
    queued = {"queued_at": tx.now, "run_at": None, "wait_reason": reason}
    return Transition(row, JobStatus.QUEUED, queued, {"reason": reason} if behind else {})


def unsuccessful(needed: Sequence[Row[Any]]) -> list[Row[Any]]:
    """The jobs that ended without success, of those that are given."""
    return [other for other in needed if status_of(other.status).ended and other.status != JobStatus.SUCCEEDED]


def dependency_failure(broken: list[tuple[str, str]]) -> Failure:
    """The failure of a job whose dependencies did not succeed."""
    names = ", ".join(f"{job_id} ({status})" for job_id, status in broken)
    return Failure(
        category=ErrorCategory.RESOURCE,
        code="dependency_failed",
        message=f"a job that this one depends on did not succeed: {names}; retry that one, then this one",
        details={"depends_on": [job_id for job_id, _ in broken]},
    )
