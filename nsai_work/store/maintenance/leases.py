"""Leases: an owner beats, an observer watches, and no wall clock decides.

A lease is (fence, beat, ttl). Its owner stops by its own monotonic clock before ttl has passed since it *began*
its last successful beat. An observer may declare it expired only when, by the observer's own monotonic clock, it
has seen the same beat for ttl. Since the observer saw the beat after the owner began it, the owner has stopped
by then. The takeover names fence and beat, so a beat that comes in between defeats it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, select, tuple_, update

from crucible.errors import Canceled, ErrorCategory, Failure
from nsai_work.errors import WorkerLost
from nsai_work.lifecycle import JobStatus
from nsai_work.policies import RetryPolicy
from nsai_work.store.engine.bulk_write import BulkWrite
from nsai_work.store.engine.database import Tx
from nsai_work.store.lifecycle.dependencies import after_end
from nsai_work.store.lifecycle.finish import close_attempts, released
from nsai_work.store.lifecycle.transitions import Transition, lock_rows, plan_moves
from nsai_work.store.records import Claim, Lease, LeaseReport, OutcomeKind
from nsai_work.store.rows import failure_json, failure_of
from nsai_work.store.schema import attempts, jobs, specs, status_in

MAX_CRASHES: Final = 5
"""How many workers a job may take down in a row, without progress, before it is parked. Deaths have many causes
(deploys, spot machines), so this is apart from the attempts that a retry policy grants to the job's own errors."""


def heartbeat(tx: Tx, claims: Sequence[Claim], lease_ttl_s: float) -> LeaseReport:
    """Renew the leases of one worker's claims, in one statement."""
    if not claims:
        return LeaseReport(frozenset(), frozenset(), frozenset())
    owned = tuple_(jobs.c.seq, jobs.c.fence).in_([(claim.seq, claim.fence) for claim in claims])
    statement = (
        update(jobs)
        .where(status_in(JobStatus.RUNNING), owned)
        .values(beat=jobs.c.beat + 1, lease_ttl_ms=int(lease_ttl_s * 1000))
        .returning(jobs.c.id, jobs.c.cancel_requested_at)
    )
    rows = tx.connection.execute(statement).all()
    held = frozenset(row.id for row in rows)
    return LeaseReport(
        held=held,
        lost=frozenset(claim.job_id for claim in claims) - held,
        cancel_requested=frozenset(row.id for row in rows if row.cancel_requested_at is not None),
    )


def leases(tx: Tx) -> list[Lease]:
    """Every running job's lease."""
    columns = (jobs.c.seq, jobs.c.id, jobs.c.fence, jobs.c.beat, jobs.c.lease_ttl_ms, jobs.c.worker_id)
    rows = tx.connection.execute(select(*columns).where(status_in(JobStatus.RUNNING)))
    return [Lease(row.seq, row.id, row.fence, row.beat, row.lease_ttl_ms / 1000, row.worker_id) for row in rows]


@dataclass(frozen=True, slots=True)
class _Seen:
    lease: Lease
    since: float


class LeaseWatch:
    """An observer's memory: since when, by its own monotonic clock, it has seen each lease unchanged."""

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}

    def expired(self, observed: Iterable[Lease], now: float) -> list[Lease]:
        """The leases that have been unchanged for their ttl.

        ``now`` is the observer's monotonic clock *after* ``observed`` was read. Leases not observed are forgotten.
        """
        seen: dict[int, _Seen] = {}
        for lease in observed:
            before = self._seen.get(lease.seq)
            seen[lease.seq] = before if before is not None and before.lease == lease else _Seen(lease, now)
        self._seen = seen
        return [one.lease for one in seen.values() if now - one.since > one.lease.ttl_s]


def reclaim(tx: Tx, expired: Sequence[Lease], *, max_crashes: int = MAX_CRASHES) -> dict[str, JobStatus]:
    """Take expired leases from their owners; where each job went, by id. One that has beaten since is left alone.

    A job goes back into the queue; or is canceled if that had been asked for; or is parked as failed, with the
    evidence, if it has now cost ``max_crashes`` workers in a row without any progress.
    """
    if not expired:
        return {}
    unchanged = tuple_(jobs.c.seq, jobs.c.fence, jobs.c.beat).in_(
        [(one.seq, one.fence, one.beat) for one in expired]
    )
    statement = select(jobs, specs.c.spec).join_from(jobs, specs, specs.c.job_seq == jobs.c.seq)
    rows = lock_rows(
        tx, statement.where(status_in(JobStatus.RUNNING), unchanged).order_by(jobs.c.seq), skip_locked=True
    )
    moves = [_reclaim_move(tx, row, max_crashes) for row in rows]
    writes = BulkWrite()
    plan_moves(tx, moves, writes)
    close_attempts(tx, [(row, str(OutcomeKind.LOST), failure_json(_lost(row))) for row in rows], writes)
    writes.run(tx)
    ended = [one.row.seq for one in moves if one.status.ended]
    if ended:
        after_end(tx, ended)
    return {one.row.id: one.status for one in moves}


def _lost(row: Row[Any]) -> Failure:
    return WorkerLost(
        f"worker {row.worker_id} died or stopped answering while it had the job",
        details={"worker_id": row.worker_id, "fence": row.fence},
    ).failure()


def _reclaim_move(tx: Tx, row: Row[Any], max_crashes: int) -> Transition:
    crashes = row.crashes + 1
    event = {"reason": "lease_expired", "worker_id": row.worker_id, "crashes": crashes}
    ended = {"completed_at": tx.now, "crashes": crashes, "wait_reason": None}
    if row.cancel_requested_at is not None:
        failure = Canceled("canceled by request; its worker had died").failure()
        return Transition(row, JobStatus.CANCELED, {**ended, "error": failure_json(failure)}, event)
    verdict = _give_up(tx, row, crashes, max_crashes)
    if verdict is not None:
        evidence = {**event, "code": verdict.code, "message": verdict.message}
        return Transition(row, JobStatus.FAILED, {**ended, "error": failure_json(verdict)}, evidence)
    values = {
        **released(tx, row, 0),
        "crashes": crashes,
        "wait_reason": "worker_lost",
        # what a worker's death costs is counted by ``crashes``, not as an attempt of the job's own
        "attempt": max(row.attempt - 1, 0),
    }
    return Transition(row, JobStatus.QUEUED, values, event)


def _give_up(tx: Tx, row: Row[Any], crashes: int, max_crashes: int) -> Failure | None:
    policy = RetryPolicy.model_validate(row.spec["retry_policy"])
    lost = _lost(row)
    if lost.code not in policy.retryable_errors and lost.category not in policy.retryable_errors:
        return lost
    if policy.max_attempts == 1:
        return lost
    return None if crashes < max_crashes else _poison(tx, row, crashes)


def _poison(tx: Tx, row: Row[Any], crashes: int) -> Failure:
    statement = (
        select(attempts).where(attempts.c.job_seq == row.seq).order_by(attempts.c.fence.desc()).limit(crashes)
    )
    evidence = [
        {"worker_id": one.worker_id, "fence": one.fence, "started_at": one.started_at.isoformat()}
        for one in tx.connection.execute(statement)
    ]
    return Failure(
        category=ErrorCategory.RESOURCE,
        code="poison_job",
        message=f"{crashes} workers in a row died while they had this job, and it made no progress; it is parked. "
        "Look at what it does to a worker (memory?), then retry it by hand",
        details={"attempts": evidence, "last_failure": failure_json(failure_of(row.error))},
    )
