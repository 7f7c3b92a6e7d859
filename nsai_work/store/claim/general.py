"""The general path of claim: any selection and limits, on either database.

Priorities are served by their shares, and within a priority tenants take turns. Claims do not wait for each other:
rows locked by another transaction are skipped.

Its twin on PostgreSQL for the common case is ``one_statement.claim``; tests/integration/store/test_twins.py holds
the rows of both equal.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from nsai_work.lifecycle import JobStatus, check_transition
from nsai_work.store.claim.candidates import Candidate, find_candidates
from nsai_work.store.claim.capacity import measure
from nsai_work.store.claim.locked_jobs import LockedJob, LockedJobs
from nsai_work.store.claim.shares import ShareCycle, lock_cycle
from nsai_work.store.claim.turns import TenantTurns
from nsai_work.store.engine.bulk_write import BulkWrite
from nsai_work.store.engine.database import Tx
from nsai_work.store.lifecycle.events import plan_events
from nsai_work.store.maintenance.leases import milliseconds
from nsai_work.store.maintenance.scheduler import release_delayed, time_out, time_to_deadline
from nsai_work.store.records import Claim, ClaimRequest
from nsai_work.store.rows import job_of
from nsai_work.store.schema import attempts, jobs


def claim(tx: Tx, request: ClaimRequest) -> list[Claim]:
    """Claim up to ``request.limit`` ready jobs. Each gets a lease, a new fencing token and its next attempt."""
    if request.limit <= 0 or request.selection.job_ids == ():
        return []
    lanes = _candidate_lanes(tx, request)
    if not lanes:
        return []
    turns_by_rank = {rank: TenantTurns(list(group)) for rank, group in groupby(lanes, key=lambda lane: lane.rank)}
    # with one priority there is nothing to share
    cycle = lock_cycle(tx, request.selection) if len(turns_by_rank) > 1 else None
    batch = LockedJobs(tx, request, measure(tx, lanes))
    _fill(batch, turns_by_rank, cycle or ShareCycle())
    for turns in turns_by_rank.values():
        turns.end(tx)
    return _acquire(tx, request, batch.locked, cycle)


def _fill(batch: LockedJobs, turns_by_rank: dict[int, TenantTurns], cycle: ShareCycle) -> None:
    """Add jobs of each priority by its share. What a priority cannot fill is dealt to the others."""
    open_ranks = set(turns_by_rank)
    while open_ranks and batch.missing:
        for rank, count in sorted(cycle.deal(open_ranks, batch.missing).items()):
            if turns_by_rank[rank].fill(batch, count) < count:
                open_ranks.remove(rank)


def _candidate_lanes(tx: Tx, request: ClaimRequest) -> Sequence[Candidate]:
    # usually no limit is set and nothing is due, so one query suffices
    candidates = find_candidates(tx, request.selection, limited=False)
    if candidates.due:
        time_out(tx)
        release_delayed(tx)
        candidates = find_candidates(tx, request.selection, limited=False)
    if candidates.limited:
        candidates = find_candidates(tx, request.selection, limited=True)
    return candidates.lanes


def _acquire(tx: Tx, request: ClaimRequest, locked: Sequence[LockedJob], cycle: ShareCycle | None) -> list[Claim]:
    if not locked:
        return []
    check_transition(JobStatus.QUEUED, JobStatus.RUNNING)
    claims = [_claim_of(tx, request, job) for job in locked]
    bulk = BulkWrite()
    bulk.update(jobs, [_job_row(tx, request, claim) for claim in claims], by=("seq",), exact=True)
    bulk.insert(attempts, [_attempt_row(tx, claim) for claim in claims])
    plan_events(tx, [_event(claim) for claim in claims], bulk)
    if cycle is not None:
        cycle.plan(bulk)
    bulk.execute(tx)
    return claims


def _job_row(tx: Tx, request: ClaimRequest, claim: Claim) -> dict[str, Any]:
    return {
        "seq": claim.seq,
        "status": str(JobStatus.RUNNING),
        "fence": claim.fence,
        "attempt": claim.attempt,
        "beat": 0,
        "lease_ttl_ms": milliseconds(request.lease_ttl_s),
        "grace_ms": milliseconds(request.grace_s),
        "worker_id": request.worker_id,
        "credential": claim.credential,
        "started_at": claim.job.started_at,
        "delayed_since": None,
        "wait_reason": None,
    }


def _claim_of(tx: Tx, request: ClaimRequest, locked: LockedJob) -> Claim:
    row = locked.row
    fence, attempt = row.fence + 1, row.attempt + 1
    job = job_of(
        row._mapping,
        status=JobStatus.RUNNING,
        fence=fence,
        attempt=attempt,
        worker_id=request.worker_id,
        started_at=row.started_at or tx.now,
        wait_reason=None,
    )
    return Claim(
        job=job,
        seq=row.seq,
        fence=fence,
        attempt=attempt,
        worker_id=request.worker_id,
        backend=locked.backend,
        credential=locked.credential,
        remaining_s=time_to_deadline(tx, job),
    )


def _attempt_row(tx: Tx, claim: Claim) -> dict[str, Any]:
    return {
        "job_seq": claim.seq,
        "fence": claim.fence,
        "attempt": claim.attempt,
        "worker_id": claim.worker_id,
        "backend": claim.backend,
        "started_at": tx.now,
    }


def _event(claim: Claim) -> tuple[int, str, dict[str, Any]]:
    data = {
        "from": str(JobStatus.QUEUED),
        "to": str(JobStatus.RUNNING),
        "fence": claim.fence,
        "attempt": claim.attempt,
        "worker_id": claim.worker_id,
        "backend": claim.backend,
    }
    return (claim.seq, f"job.{JobStatus.RUNNING}", data)
