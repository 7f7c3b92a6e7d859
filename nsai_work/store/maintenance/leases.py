"""Leases: owners send heartbeats, observers watch for silence, and no wall clock is compared.

A lease is (fence, beat, ttl). Its owner stops by its own monotonic clock before ttl has passed since it *began* its
last successful heartbeat. An observer may declare the lease expired only after it has seen the same beat for ttl,
by its own monotonic clock. It saw that beat after the owner began it, so the owner has stopped by then. The reclaim
names fence and beat, so a heartbeat in between defeats it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select, tuple_, update

from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.database import Tx
from nsai_work.store.records import Claim, Lease, LeaseReport
from nsai_work.store.schema import jobs, status_in


def heartbeat(tx: Tx, claims: Sequence[Claim], lease_ttl_s: float) -> LeaseReport:
    """Renew the leases of a worker's claims, in one statement."""
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


def running_leases(tx: Tx) -> list[Lease]:
    """The leases of all running jobs."""
    columns = (jobs.c.seq, jobs.c.id, jobs.c.fence, jobs.c.beat, jobs.c.lease_ttl_ms, jobs.c.worker_id)
    rows = tx.connection.execute(select(*columns).where(status_in(JobStatus.RUNNING)))
    return [Lease(row.seq, row.id, row.fence, row.beat, _seconds(row.lease_ttl_ms), row.worker_id) for row in rows]


def _seconds(milliseconds: object) -> float:
    # without a valid ttl the lease is over
    return milliseconds / 1000 if isinstance(milliseconds, int) else 0.0


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
