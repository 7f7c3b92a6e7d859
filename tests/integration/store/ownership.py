"""Owners, their claims and observers, as the ownership model sees them."""

from dataclasses import dataclass, field
from typing import Any

from nsai_work.store import Claim, Lease, LeaseWatch, Store
from nsai_work.store.maintenance.absence import AbsenceWatch
from nsai_work.store.schema import workers
from nsai_work.worker.leases import last_presence

TTL_S = 30.0
GRACE_S = 8.0
REPEATABLE_GRACE_S = 0.5
OWNERS = 3
WITHOUT_PRESENCE = 3
OBSERVERS = 2


@dataclass
class Owner:
    """A worker process, its session, and what it knows of it: when it began, and when it was last used."""

    worker_id: str
    has_presence: bool
    began_at: float
    confirmed_at: float
    connected: bool = True

    def connect(self, now: float) -> None:
        """Replace the session if it has ended."""
        if not self.connected:
            self.connected, self.began_at = True, now
        self.confirmed_at = now


@dataclass
class Held:
    """A claim as its owner sees it. ``renewed_at`` is the monotonic time at which its last successful heartbeat was
    sent."""

    claim: Claim
    owner: Owner
    renewed_at: float
    given_up: bool = False
    repeatable: bool = False
    beat_sent_at: float | None = None
    present_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.present_at = self.renewed_at

    def check_presence(self) -> None:
        """As the lease keeper does, now and then."""
        owner = self.owner
        self.present_at = last_presence(self.present_at, self.renewed_at, owner.began_at, owner.confirmed_at)

    def leased(self, now: float) -> bool:
        """Whether the owner may act on the job as far as the lease is concerned."""
        return not self.given_up and now - self.renewed_at < TTL_S

    def exclusive(self, now: float) -> bool:
        """Whether the owner may still do what cannot be repeated."""
        present = now - self.present_at < GRACE_S or not self.owner.has_presence
        return self.leased(now) and not self.repeatable and present


@dataclass
class Observer:
    """An observer of leases and presence, which may act long after it has seen them end."""

    session_began_at: float
    watch: LeaseWatch = field(default_factory=LeaseWatch)
    absence: AbsenceWatch = field(default_factory=AbsenceWatch)
    ended: list[Lease] = field(default_factory=list)


def register(store: Store, owner: Owner) -> None:
    """Register a worker."""
    row = {"id": owner.worker_id, "host": "h", "pid": 1, "version": "1", "backends": {}}

    def operation(tx: Any) -> None:
        times = {"started_at": tx.now, "seen_at": tx.now}
        tx.connection.execute(workers.insert(), {**row, **times, "has_presence": owner.has_presence})

    store.database.run(operation)
