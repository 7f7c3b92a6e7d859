"""Absence: an owner without a presence, whose jobs are taken over sooner than its leases would expire.

A lock that is free shows that a process has ended (SQLite), or that a session has (PostgreSQL), whose process may
go on and may reconnect. Therefore an observer waits for the grace that the owner has declared for each job. The
owner stops what cannot be repeated before it is over, by its own monotonic clock, unless it has reconnected and
renewed its lease. As with leases, the reclaim names fence and beat, so an owner that came back unseen between two
observations defeats it.

An observer judges only after it has been connected for the whole grace itself, and for at least SETTLE_S: when the
server restarts, all sessions end, and the first worker to reconnect must not take the others for dead. That the
observer's own session is unbroken also shows that the server has not restarted or failed over since.
"""

from collections.abc import Iterable
from typing import Final

from nsai_work.store.records import Absence, Lease

SETTLE_S: Final = 5.0
"""The seconds for which an observer is connected before it judges: after a restart, workers reconnect within a
second or two, and an overloaded one within a few."""


class AbsenceWatch:
    """Detects leases whose owner has been absent for their grace: remembers since when, by the observer's monotonic
    clock, each has been unchanged while its owner was absent."""

    def __init__(self) -> None:
        self._since: dict[Lease, float] = {}
        self._session_began_at: float | None = None

    def ended(self, observed: Iterable[Lease], absence: Absence, now: float) -> list[Lease]:
        """Those of the observed leases whose owner has been absent for their grace.

        ``observed`` was read *before* ``absence``, and ``now`` is the observer's monotonic clock *after* it. Leases
        that are not in ``observed``, or whose owner is present, are forgotten.
        """
        before = self._since if absence.session_began_at == self._session_began_at else {}
        self._session_began_at = absence.session_began_at
        absent = (
            lease for lease in observed if lease.worker_id in absence.worker_ids and lease.grace_s is not None
        )
        self._since = {lease: before.get(lease, now) for lease in absent}
        return [lease for lease in self._since if self._ends_at(lease) <= now]

    @property
    def next_end(self) -> float | None:
        """The monotonic time at which the next lease ends if its owner stays absent; None if none is absent."""
        return min(map(self._ends_at, self._since), default=None)

    def _ends_at(self, lease: Lease) -> float:
        grace_s = lease.grace_s or 0.0
        ends_at = self._since[lease] + grace_s
        if self._session_began_at is None:
            return ends_at
        return max(ends_at, self._session_began_at + max(grace_s, SETTLE_S))
