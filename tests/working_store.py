"""A blocking store for tests, with the worker's operations beside those of ``Store``.

The operations run through the AsyncStore, as in production. One event loop in a thread of its own serves all stores
of the process.
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import URL

from crucible.runtime.forks import reset_after_fork, retain_inherited
from nsai_work.clock import Clock, SystemClock
from nsai_work.job import Priority
from nsai_work.journal import StepRecord
from nsai_work.lifecycle import JobStatus
from nsai_work.payloads import JobKind
from nsai_work.store import (
    MAX_CRASHES,
    AsyncStore,
    Claim,
    ClaimRequest,
    Database,
    DueJobs,
    Lease,
    LeaseReport,
    Outcome,
    Selection,
    Store,
    StoreJournal,
    WakeUp,
    parse_url,
)

T = TypeVar("T")

_loop: asyncio.AbstractEventLoop | None = None
_lock = threading.Lock()


def _event_loop() -> asyncio.AbstractEventLoop:
    """The event loop of this process. A forked child starts one of its own."""
    global _loop
    reset_after_fork(_reset)
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="working store", daemon=True).start()
        return _loop


def _reset() -> None:
    global _loop, _lock
    retain_inherited(_loop)
    _loop, _lock = None, threading.Lock()


def _wait_for(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, _event_loop()).result()


@dataclass(frozen=True, slots=True)
class WorkingStore(Store):
    """Store and AsyncStore over one database. Each method blocks until its commit."""

    door: AsyncStore

    def close(self) -> None:
        """Close both."""
        _wait_for(self.door.close())
        self.database.close()

    def claim(self, request: ClaimRequest) -> list[Claim]:
        """As AsyncStore.claim."""
        return _wait_for(self.door.claim(request))

    def heartbeat(
        self, claims: Sequence[Claim], lease_ttl_s: float, graces_s: Mapping[str, float | None] | None = None
    ) -> LeaseReport:
        """As AsyncStore.heartbeat."""
        return _wait_for(self.door.heartbeat(claims, lease_ttl_s, graces_s))

    def finish(self, claim: Claim, outcome: Outcome) -> None:
        """As AsyncStore.finish."""
        _wait_for(self.door.finish(claim, outcome))

    def requeue(self, claim: Claim, outcome: Outcome) -> JobStatus:
        """As AsyncStore.requeue."""
        return _wait_for(self.door.requeue(claim, outcome))

    def leases(self) -> list[Lease]:
        """As AsyncStore.running_leases."""
        return _wait_for(self.door.running_leases())

    def reclaim(self, ended: Sequence[Lease], *, max_crashes: int = MAX_CRASHES) -> dict[str, JobStatus]:
        """As AsyncStore.reclaim."""
        return _wait_for(self.door.reclaim(ended, max_crashes=max_crashes))

    def complete_step(self, claim: Claim, record: StepRecord, last_seq_id: int) -> None:
        """As StoreJournal.complete_step."""
        _wait_for(StoreJournal(self.door, claim).complete_step(record, last_seq_id))

    def release_due(self) -> DueJobs:
        """As AsyncStore.release_due."""
        return _wait_for(self.door.release_due())

    def overdue_wake_ups(self, older_than_s: float = 5.0) -> list[WakeUp]:
        """As AsyncStore.overdue_wake_ups."""
        return _wait_for(self.door.overdue_wake_ups(older_than_s))


def open_working_store(
    url: str | URL, clock: Clock | None = None, *, server_time: bool | None = None
) -> WorkingStore:
    """A working store at a database address, migrated at first use. A given clock replaces that of PostgreSQL; with
    ``server_time`` it is only the clock of this process."""
    by_server = clock is None if server_time is None else server_time
    database = Database(parse_url(url), clock or SystemClock(), True, server_time=by_server)
    return WorkingStore(database, AsyncStore(database))


def selection(
    *,
    priorities: Iterable[Priority] | None = None,
    kinds: Iterable[JobKind] | None = None,
    backends: Mapping[str, str] | None = None,
    job_ids: Iterable[str] | None = None,
) -> Selection:
    """A selection from any collections. None means any."""
    return Selection(
        priorities=None if priorities is None else tuple(priorities),
        kinds=None if kinds is None else tuple(kinds),
        backends=None if backends is None else tuple(sorted(backends.items())),
        job_ids=None if job_ids is None else tuple(job_ids),
    )
