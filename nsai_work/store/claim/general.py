"""The general path of claim: any selection and limits, on either database.

The most urgent priority comes first; within it tenants take turns, and within a tenant the lane whose front job is
the oldest. Claims do not wait for each other: rows locked by another transaction are skipped.

Its twin on PostgreSQL for the common case is ``one_statement.claim``; tests/integration/store/test_twins.py holds
the rows of both equal.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from typing import Any, Final

from sqlalchemy import BigInteger, Integer, Row, Select, bindparam, func, select, update

from nsai_work.lifecycle import JobStatus, check_transition
from nsai_work.store.claim.candidates import Candidate, find_candidates
from nsai_work.store.claim.capacity import Capacity, measure
from nsai_work.store.engine.bulk_write import BulkWrite
from nsai_work.store.engine.database import PREPARED, Tx
from nsai_work.store.lanes import ready_in
from nsai_work.store.lifecycle.events import plan_events
from nsai_work.store.maintenance.scheduler import release_delayed
from nsai_work.store.records import Claim, ClaimRequest
from nsai_work.store.rows import job_of, select_jobs
from nsai_work.store.schema import attempts, jobs, turns

_BEFORE_FIRST: Final = -1
"""Below the seq of any job."""


@dataclass(frozen=True, slots=True)
class _LockedJob:
    """A ready job that this claim has locked, with the backend and credential it will run with."""

    row: Row[Any]
    backend: str
    credential: str


def claim(tx: Tx, request: ClaimRequest) -> list[Claim]:
    """Claim up to ``request.limit`` ready jobs. Each gets a lease, a new fencing token and its next attempt."""
    if request.limit <= 0 or request.selection.job_ids == ():
        return []
    lanes = _candidate_lanes(tx, request)
    if not lanes:
        return []
    batch = _ClaimBatch(tx, request, measure(tx, lanes))
    for _, group in groupby(lanes, key=lambda lane: lane.rank):
        _fill_in_turns(batch, list(group))
        if not batch.missing:
            break
    return _acquire(tx, request, batch.locked)


def _candidate_lanes(tx: Tx, request: ClaimRequest) -> Sequence[Candidate]:
    # usually no limit is set and no delay is over, so one query suffices
    candidates = find_candidates(tx, request.selection, limited=False)
    if candidates.delay_over:
        release_delayed(tx)
    if candidates.delay_over or candidates.limits_set:
        candidates = find_candidates(tx, request.selection, limited=candidates.limits_set)
    return candidates.lanes


@dataclass
class _ClaimBatch:
    """The jobs that a claim has locked so far. ``passed`` is the last seq that it has read, by lane."""

    tx: Tx
    request: ClaimRequest
    capacity: Capacity
    locked: list[_LockedJob] = field(default_factory=list)
    passed: dict[int, int] = field(default_factory=dict)

    @property
    def missing(self) -> int:
        """The number of jobs that may still be added."""
        return self.request.limit - len(self.locked)

    def add_from(self, lane: Candidate, limit: int) -> int:
        """Lock up to ``limit`` jobs at the front of a lane. Returns their number."""
        added = 0
        for backend, credential in lane.backends:
            count = min(limit - added, self.capacity.available(lane, credential))
            if count <= 0:
                continue
            rows = self._lock_front(lane, count)
            if rows:
                self.passed[lane.lane_id] = rows[-1].seq
            self.capacity.use(lane, credential, len(rows))
            self.locked += [_LockedJob(row, backend, credential) for row in rows]
            added += len(rows)
        return added

    def _lock_front(self, lane: Candidate, count: int) -> Sequence[Row[Any]]:
        """Lock the first ``count`` ready jobs of a lane that no other transaction has locked."""
        values: dict[str, object] = {
            "lane_id": lane.lane_id,
            "count": count,
            "passed": self.passed.get(lane.lane_id, _BEFORE_FIRST),
        }
        if self.request.selection.job_ids is not None:
            values["job_ids"] = list(self.request.selection.job_ids)
        statement = _front_of_lane(self.request.selection.job_ids is not None)
        return self.tx.connection.execute(statement, values).all()


@lru_cache
def _front_of_lane(by_id: bool) -> Select[Any]:
    lane_id, passed = (bindparam(name, type_=BigInteger()) for name in ("lane_id", "passed"))
    statement = select_jobs().where(*ready_in(lane_id), jobs.c.seq > passed).order_by(jobs.c.seq)
    if by_id:
        statement = statement.where(jobs.c.id.in_(bindparam("job_ids", expanding=True)))
    statement = statement.limit(bindparam("count", type_=Integer())).with_for_update(of=jobs, skip_locked=True)
    return statement if by_id else statement.execution_options(**PREPARED)


def _fill_in_turns(batch: _ClaimBatch, candidates: Sequence[Candidate]) -> None:
    """Add jobs from lanes of one priority, in equal shares for the tenants, until the batch is full or the lanes
    empty."""
    lanes_by_tenant = {tenant: deque(lanes) for tenant, lanes in _by_tenant(candidates)}
    several = len(lanes_by_tenant) > 1
    served: set[str] = set()
    while lanes_by_tenant and batch.missing:
        share = max(1, batch.missing // len(lanes_by_tenant))
        for tenant, lanes in list(lanes_by_tenant.items()):
            limit = min(share, batch.missing)
            added = batch.add_from(lanes[0], limit)
            if added:
                served.add(tenant)
            if added < limit:
                lanes.popleft()
            else:
                lanes.rotate(-1)
            if not lanes:
                del lanes_by_tenant[tenant]
            if not batch.missing:
                break
    if several:
        _end_turns(batch.tx, candidates[0].rank, sorted(served))


def _by_tenant(candidates: Sequence[Candidate]) -> Iterator[tuple[str, list[Candidate]]]:
    tenants: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        tenants.setdefault(candidate.tenant_id, []).append(candidate)
    for tenant, lanes in tenants.items():
        yield tenant, sorted(lanes, key=lambda lane: lane.front)


def _end_turns(tx: Tx, rank: int, served: Sequence[str]) -> None:
    """Move the served tenants behind all others. Rows locked by another claim are skipped: it moves them itself."""
    if not served:
        return
    condition = (turns.c.rank == rank) & turns.c.tenant_id.in_(list(served))
    unlocked = select(turns.c.tenant_id).where(condition).with_for_update(skip_locked=True)
    others = turns.alias("others")
    last = select(func.max(others.c.turn)).where(others.c.rank == rank).scalar_subquery()
    moved = update(turns).where(turns.c.rank == rank, turns.c.tenant_id.in_(unlocked.scalar_subquery()))
    tx.connection.execute(moved.values(turn=last + 1))


def _acquire(tx: Tx, request: ClaimRequest, locked: Sequence[_LockedJob]) -> list[Claim]:
    if not locked:
        return []
    check_transition(JobStatus.QUEUED, JobStatus.RUNNING)
    claims = [_claim_of(tx, request, job) for job in locked]
    bulk = BulkWrite()
    bulk.update(jobs, [_job_row(tx, request, claim) for claim in claims], by=("seq",), exact=True)
    bulk.insert(attempts, [_attempt_row(tx, claim) for claim in claims])
    plan_events(tx, [_event(claim) for claim in claims], bulk)
    bulk.execute(tx)
    return claims


def _job_row(tx: Tx, request: ClaimRequest, claim: Claim) -> dict[str, Any]:
    return {
        "seq": claim.seq,
        "status": str(JobStatus.RUNNING),
        "fence": claim.fence,
        "attempt": claim.attempt,
        "beat": 0,
        "lease_ttl_ms": int(request.lease_ttl_s * 1000),
        "worker_id": request.worker_id,
        "credential": claim.credential,
        "started_at": claim.job.started_at,
        "delayed_since": None,
        "wait_reason": None,
    }


def _claim_of(tx: Tx, request: ClaimRequest, locked: _LockedJob) -> Claim:
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
