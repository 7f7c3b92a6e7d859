"""Leases: owners send heartbeats, observers watch for silence, and no wall clock is compared.

A lease is (fence, beat, ttl). Its owner stops by its own monotonic clock before ttl has passed since it *began* its
last successful heartbeat. An observer may declare the lease expired only after it has seen the same beat for ttl,
by its own monotonic clock. It saw that beat after the owner began it, so the owner has stopped by then. The reclaim
names fence and beat, so a heartbeat in between defeats it.

An owner that has a presence also writes a grace: an observer that has seen it absent for that long may declare the
lease ended sooner (``absence.py``).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import case, null, select, update

from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.database import Tx
from nsai_work.store.records import Claim, Lease, LeaseReport
from nsai_work.store.schema import jobs, status_in, workers


def heartbeat(
    tx: Tx, claims: Sequence[Claim], lease_ttl_s: float, graces_s: Mapping[str, float | None] | None = None
) -> LeaseReport:
    """Renew the leases of a worker's claims, in one statement. ``graces_s`` are the graces by job id; a job that is
    not in it has none."""
    if not claims:
        return LeaseReport(frozenset(), frozenset(), frozenset())
    owned = tx.one_of_rows((jobs.c.seq, jobs.c.fence), [(claim.seq, claim.fence) for claim in claims])
    seqs_by_grace: dict[int, list[int]] = {}
    for claim in claims:
        if (grace_ms := milliseconds((graces_s or {}).get(claim.job_id))) is not None:
            seqs_by_grace.setdefault(grace_ms, []).append(claim.seq)
    graces = [(tx.one_of(jobs.c.seq, seqs), grace_ms) for grace_ms, seqs in seqs_by_grace.items()]
    values = {
        "beat": jobs.c.beat + 1,
        "lease_ttl_ms": milliseconds(lease_ttl_s),
        "grace_ms": case(*graces, else_=null()) if graces else None,
    }
    statement = (
        update(jobs)
        .where(status_in(JobStatus.RUNNING), owned)
        .values(values)
        .returning(jobs.c.id, jobs.c.cancel_requested_at)
    )
    rows = tx.connection.execute(statement).all()
    held = frozenset(row.id for row in rows)
    return LeaseReport(
        held=held,
        lost=frozenset(claim.job_id for claim in claims) - held,
        cancel_requested=frozenset(row.id for row in rows if row.cancel_requested_at is not None),
    )


def running_leases(tx: Tx) -> list[Lease]:
    """The leases of all running jobs."""
    columns = (jobs.c.seq, jobs.c.id, jobs.c.fence, jobs.c.beat, jobs.c.lease_ttl_ms, jobs.c.worker_id)
    # an owner of an older version leaves the grace of the one before it
    grace_ms = case((workers.c.has_presence, jobs.c.grace_ms)).label("grace_ms")
    owned = select(*columns, grace_ms).join_from(jobs, workers, workers.c.id == jobs.c.worker_id, isouter=True)
    rows = tx.connection.execute(owned.where(status_in(JobStatus.RUNNING)))
    return [
        Lease(
            seq=row.seq,
            job_id=row.id,
            fence=row.fence,
            beat=row.beat,
            # without a valid ttl the lease is over
            ttl_s=_seconds(row.lease_ttl_ms) or 0.0,
            worker_id=row.worker_id,
            grace_s=_seconds(row.grace_ms),
        )
        for row in rows
    ]


def milliseconds(seconds: float | None) -> int | None:
    """A duration as the columns have it."""
    return None if seconds is None else int(seconds * 1000)


def _seconds(duration_ms: object) -> float | None:
    return duration_ms / 1000 if isinstance(duration_ms, int) else None


@dataclass(frozen=True, slots=True)
class _Observation:
    """A lease, and the observer's monotonic time at which it was first seen with this beat."""

    lease: Lease
    since: float


class LeaseWatch:
    """Detects expired leases: remembers since when, by the observer's monotonic clock, each has been unchanged."""

    def __init__(self) -> None:
        self._seen: dict[int, _Observation] = {}

    def expired(self, observed: Iterable[Lease], now: float) -> list[Lease]:
        """The leases that have been unchanged for longer than their ttl.

        ``now`` is the observer's monotonic clock *after* ``observed`` was read. Leases that are not in ``observed``
        are forgotten.
        """
        seen: dict[int, _Observation] = {}
        for lease in observed:
            before = self._seen.get(lease.seq)
            seen[lease.seq] = before if before is not None and before.lease == lease else _Observation(lease, now)
        self._seen = seen
        return [entry.lease for entry in seen.values() if now - entry.since > entry.lease.ttl_s]
