"""Claims: who gets which job next.

The most urgent priority first; within it the tenants take turns, and within a tenant the lane whose first job
has waited longest. No claim waits for another: rows that another transaction holds are passed over.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from typing import Any, Final

from sqlalchemy import BigInteger, Integer, Row, Select, bindparam, func, select, update

from nsai_work.lifecycle import JobStatus, check_transition
from nsai_work.store.claim.candidates import Candidate, look
from nsai_work.store.claim.capacity import Capacity, measure
from nsai_work.store.engine.bulk_write import BulkWrite
from nsai_work.store.engine.database import PREPARED, Tx
from nsai_work.store.lanes import ready_in
from nsai_work.store.lifecycle.transitions import plan_events
from nsai_work.store.maintenance.scheduler import release_delayed
from nsai_work.store.records import Claim, ClaimRequest
from nsai_work.store.rows import job_of, select_jobs
from nsai_work.store.schema import attempts, jobs, turns

_START: Final = -1
"""Before the first seq of any lane."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """A job that has been picked for a claim, and the backend it will run on."""

    row: Row[Any]
    backend: str
    credential: str


def claim(tx: Tx, request: ClaimRequest) -> list[Claim]:
    """Take up to ``request.limit`` ready jobs; each gets a lease, a new fence and one more attempt."""
    if request.limit <= 0 or request.selection.job_ids == ():
        return []
    candidates = _candidates(tx, request)
    if not candidates:
        return []
    picking = _Picking(tx, request, measure(tx, candidates))
    for _, group in groupby(candidates, key=lambda candidate: candidate.rank):
        _pick_in_turns(picking, list(group))
        if not picking.missing:
            break
    return _own(tx, request, picking.taken)


def _candidates(tx: Tx, request: ClaimRequest) -> Sequence[Candidate]:
    # mostly no limit is set and no delay has just ended, so one look will do
    outlook = look(tx, request.selection, limited=False)
    if outlook.delay_over:
        release_delayed(tx)
    if outlook.delay_over or outlook.limits_set:
        outlook = look(tx, request.selection, limited=outlook.limits_set)
    return outlook.candidates


@dataclass
class _Picking:
    """What a claim has picked so far. ``passed`` is, by lane, the last seq it has been to."""

    tx: Tx
    request: ClaimRequest
    capacity: Capacity
    taken: list[_Taken] = field(default_factory=list)
    passed: dict[int, int] = field(default_factory=dict)

    @property
    def missing(self) -> int:
        """How many jobs are still asked for."""
        return self.request.limit - len(self.taken)

    def pick(self, lane: Candidate, asked: int) -> int:
        """Lock up to so many jobs at the front of a lane; how many there were."""
        got = 0
        for backend, credential in lane.backends:
            room = min(asked - got, self.capacity.room(lane, credential))
            if room <= 0:
                continue
            rows = self._front(lane, room)
            if rows:
                self.passed[lane.lane_id] = rows[-1].seq
            self.capacity.use(lane, credential, len(rows))
            self.taken += [_Taken(row, backend, credential) for row in rows]
            got += len(rows)
        return got

    def _front(self, lane: Candidate, count: int) -> Sequence[Row[Any]]:
        """Lock the first so many ready jobs of a lane that nobody else is taking."""
        values: dict[str, object] = {
            "lane_id": lane.lane_id,
            "count": count,
            "passed": self.passed.get(lane.lane_id, _START),
        }
        if self.request.selection.job_ids is not None:
            values["job_ids"] = list(self.request.selection.job_ids)
        return self.tx.connection.execute(_front_of_lane(self.request.selection.job_ids is not None), values).all()


@lru_cache
def _front_of_lane(named: bool) -> Select[Any]:
    lane_id, passed = (bindparam(name, type_=BigInteger()) for name in ("lane_id", "passed"))
    statement = select_jobs().where(*ready_in(lane_id), jobs.c.seq > passed).order_by(jobs.c.seq)
    if named:
        statement = statement.where(jobs.c.id.in_(bindparam("job_ids", expanding=True)))
    statement = statement.limit(bindparam("count", type_=Integer())).with_for_update(of=jobs, skip_locked=True)
    return statement if named else statement.execution_options(**PREPARED)


def _pick_in_turns(picking: _Picking, candidates: Sequence[Candidate]) -> None:
    """Pick from lanes of one priority: the tenants in rotation, in equal shares, until enough or none is left."""
    waiting = {tenant: deque(lanes) for tenant, lanes in _by_tenant(candidates)}
    several = len(waiting) > 1
    served: set[str] = set()
    while waiting and picking.missing:
        share = max(1, picking.missing // len(waiting))
        for tenant, lanes in list(waiting.items()):
            asked = min(share, picking.missing)
            got = picking.pick(lanes[0], asked)
            if got:
                served.add(tenant)
            if got < asked:
                lanes.popleft()
            else:
                lanes.rotate(-1)
            if not lanes:
                del waiting[tenant]
            if not picking.missing:
                break
    if several:
        _move_back(picking.tx, candidates[0].rank, sorted(served))


def _by_tenant(candidates: Sequence[Candidate]) -> Iterator[tuple[str, list[Candidate]]]:
    tenants: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        tenants.setdefault(candidate.tenant_id, []).append(candidate)
    for tenant, lanes in tenants.items():
        yield tenant, sorted(lanes, key=lambda lane: lane.front)


def _move_back(tx: Tx, rank: int, served: Sequence[str]) -> None:
    """Put the tenants that were served behind all others. A row that another claim holds is being moved back
    by that one."""
    if not served:
        return
    these = (turns.c.rank == rank) & turns.c.tenant_id.in_(list(served))
    mine = select(turns.c.tenant_id).where(these).with_for_update(skip_locked=True)
    others = turns.alias("others")
    last = select(func.max(others.c.turn)).where(others.c.rank == rank).scalar_subquery()
    moved = update(turns).where(turns.c.rank == rank, turns.c.tenant_id.in_(mine.scalar_subquery()))
    tx.connection.execute(moved.values(turn=last + 1))


def _own(tx: Tx, request: ClaimRequest, taken: Sequence[_Taken]) -> list[Claim]:
    if not taken:
        return []
    check_transition(JobStatus.QUEUED, JobStatus.RUNNING)
    claims = [_claim_of(tx, request, one) for one in taken]
    writes = BulkWrite()
    writes.update(jobs, [_job_row(tx, request, one) for one in claims], by=("seq",), exact=True)
    writes.insert(attempts, [_attempt_row(tx, one) for one in claims])
    plan_events(tx, [_event(one) for one in claims], writes)
    writes.run(tx)
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


def _claim_of(tx: Tx, request: ClaimRequest, one: _Taken) -> Claim:
    fence, attempt = one.row.fence + 1, one.row.attempt + 1
    job = job_of(
        one.row._mapping,
        status=JobStatus.RUNNING,
        fence=fence,
        attempt=attempt,
        worker_id=request.worker_id,
        started_at=one.row.started_at or tx.now,
        wait_reason=None,
    )
    return Claim(
        job=job,
        seq=one.row.seq,
        fence=fence,
        attempt=attempt,
        worker_id=request.worker_id,
        backend=one.backend,
        credential=one.credential,
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
