"""Claims: who gets which job next.

The most urgent priority first; within it the tenants take turns, and within a tenant the lane whose first job
has waited longest. No claim waits for another: rows that another transaction holds are passed over.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from sqlalchemy import Row, bindparam, exists, func, insert, literal, select, update

from nsai_work.lifecycle import JobStatus, check_transition
from nsai_work.store.candidates import Candidate, find_candidates
from nsai_work.store.capacity import Capacity, measure
from nsai_work.store.columns import UtcTime
from nsai_work.store.database import Tx
from nsai_work.store.lanes import ready_in
from nsai_work.store.records import Claim, Wanted
from nsai_work.store.releasing import CLOCK_SKEW, due_condition, release_delayed
from nsai_work.store.rows import job_of, select_jobs
from nsai_work.store.schema import attempts, jobs, limits, turns
from nsai_work.store.transitions import append_events, lock_rows

# asked first, since mostly both are false
_OUTLOOK: Final = select(
    exists().where(due_condition(bindparam("now", type_=UtcTime()), bindparam("set_back", type_=UtcTime()))),
    exists().where(limits.c.key.is_not(None)),
)


@dataclass(frozen=True, slots=True)
class _Taken:
    """A job that has been picked for a claim, and the backend it will run on."""

    row: Row[Any]
    backend: str
    credential: str


def claim(tx: Tx, wanted: Wanted) -> list[Claim]:
    """Take up to ``wanted.limit`` ready jobs; each gets a lease, a new epoch and one more attempt."""
    if wanted.limit <= 0 or wanted.job_ids == []:
        return []
    due, limited = tx.connection.execute(_OUTLOOK, {"now": tx.now, "set_back": tx.now + CLOCK_SKEW}).one()
    if due:
        release_delayed(tx)
    candidates = find_candidates(tx, wanted, limited=limited)
    if not candidates:
        return []
    capacity = measure(tx, candidates)
    taken: list[_Taken] = []
    for _, group in groupby(candidates, key=lambda candidate: candidate.rank):
        taken += _take_in_turns(tx, wanted, list(group), capacity, wanted.limit - len(taken))
        if len(taken) >= wanted.limit:
            break
    return _own(tx, wanted, taken)


def _take_in_turns(
    tx: Tx, wanted: Wanted, candidates: Sequence[Candidate], capacity: Capacity, limit: int
) -> list[_Taken]:
    waiting = {tenant: deque(lanes) for tenant, lanes in _by_tenant(candidates)}
    several = len(waiting) > 1
    taken: list[_Taken] = []
    served: dict[str, None] = {}
    while waiting and len(taken) < limit:
        share = max(1, (limit - len(taken)) // len(waiting))
        for tenant, lanes in list(waiting.items()):
            asked = min(share, limit - len(taken))
            got = _take(tx, wanted, lanes[0], capacity, asked)
            taken += got
            if got:
                served.pop(tenant, None)
                served[tenant] = None
            if len(got) < asked:
                lanes.popleft()
            else:
                lanes.rotate(-1)
            if not lanes:
                del waiting[tenant]
            if len(taken) >= limit:
                break
    if several:
        _move_back(tx, candidates[0].rank, list(served))
    return taken


def _by_tenant(candidates: Sequence[Candidate]) -> Iterator[tuple[str, list[Candidate]]]:
    tenants = dict.fromkeys(candidate.tenant_id for candidate in candidates)
    for tenant in tenants:
        lanes = [candidate for candidate in candidates if candidate.tenant_id == tenant]
        yield tenant, sorted(lanes, key=lambda lane: lane.front)


def _take(tx: Tx, wanted: Wanted, lane: Candidate, capacity: Capacity, asked: int) -> list[_Taken]:
    taken: list[_Taken] = []
    for backend, credential in lane.backends:
        room = min(asked - len(taken), capacity.room(lane, credential))
        if room <= 0:
            continue
        statement = select_jobs().where(*ready_in(lane.lane_id)).order_by(jobs.c.position).limit(room)
        if wanted.job_ids is not None:
            statement = statement.where(jobs.c.id.in_(list(wanted.job_ids)))
        if taken:
            statement = statement.where(jobs.c.seq.not_in([one.row.seq for one in taken]))
        rows = lock_rows(tx, statement, skip_locked=True)
        capacity.use(lane, credential, len(rows))
        taken += [_Taken(row, backend, credential) for row in rows]
    return taken


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


def _own(tx: Tx, wanted: Wanted, taken: Sequence[_Taken]) -> list[Claim]:
    if not taken:
        return []
    check_transition(JobStatus.QUEUED, JobStatus.RUNNING)
    ways = sorted({(one.backend, one.credential) for one in taken})
    for backend, credential in ways:
        seqs = [one.row.seq for one in taken if (one.backend, one.credential) == (backend, credential)]
        tx.connection.execute(
            update(jobs).where(jobs.c.seq.in_(seqs)).values(_owned(tx, wanted, backend, credential))
        )
    claims = [_claim_of(tx, wanted, one) for one in taken]
    tx.connection.execute(insert(attempts), [_attempt_row(tx, one) for one in claims])
    append_events(tx, [_event(one) for one in claims])
    return claims


def _owned(tx: Tx, wanted: Wanted, backend: str, credential: str) -> dict[str, Any]:
    return {
        "status": str(JobStatus.RUNNING),
        "epoch": jobs.c.epoch + 1,
        "attempt": jobs.c.attempt + 1,
        "beat": 0,
        "lease_ttl_ms": int(wanted.lease_ttl_s * 1000),
        "worker_id": wanted.worker_id,
        "claimed_backend": backend,
        "credential": credential,
        "started_at": func.coalesce(jobs.c.started_at, literal(tx.now, UtcTime())),
        "delayed_since": None,
        "wait_reason": None,
    }


def _claim_of(tx: Tx, wanted: Wanted, one: _Taken) -> Claim:
    epoch, attempt = one.row.epoch + 1, one.row.attempt + 1
    job = job_of(
        one.row,
        status=JobStatus.RUNNING,
        epoch=epoch,
        attempt=attempt,
        worker_id=wanted.worker_id,
        started_at=one.row.started_at or tx.now,
        wait_reason=None,
    )
    return Claim(
        job=job,
        seq=one.row.seq,
        epoch=epoch,
        attempt=attempt,
        worker_id=wanted.worker_id,
        backend=one.backend,
        credential=one.credential,
    )


def _attempt_row(tx: Tx, claim: Claim) -> dict[str, Any]:
    return {
        "job_seq": claim.seq,
        "epoch": claim.epoch,
        "attempt": claim.attempt,
        "worker_id": claim.worker_id,
        "backend": claim.backend,
        "started_at": tx.now,
    }


def _event(claim: Claim) -> tuple[int, str, dict[str, Any]]:
    data = {
        "from": str(JobStatus.QUEUED),
        "to": str(JobStatus.RUNNING),
        "epoch": claim.epoch,
        "attempt": claim.attempt,
        "worker_id": claim.worker_id,
        "backend": claim.backend,
    }
    return (claim.seq, f"job.{JobStatus.RUNNING}", data)
