"""A worker's side of the store: everything it asks and tells, under one worker id. Async, group-committed."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from crucible.errors import CrucibleError
from nsai_work.client.connections import open_job_store
from nsai_work.clock import Clock
from nsai_work.job import Priority
from nsai_work.journal import Journal
from nsai_work.lifecycle import JobStatus
from nsai_work.settings import Settings
from nsai_work.store import AsyncStore, Standing, Store, lanes
from nsai_work.store.engine.database import Tx
from nsai_work.store.journal.adapter import StoreJournal
from nsai_work.store.maintenance import leases, workers
from nsai_work.store.maintenance import scheduler as releasing
from nsai_work.store.queries import hints as dispatching
from nsai_work.store.queries import jobs as reading
from nsai_work.store.records import Claim, End, EventRow, Hint, Lease, LeaseReport, Released, Requeue, Wanted
from nsai_work.worker_id import WorkerId

SWEEP = "sweep"
LEAVE_PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True)
class Selection:
    """Which jobs a worker takes: of these priorities, for these backends (each with its credential's name), and of
    ``job_ids`` only, unless that is None."""

    priorities: Sequence[Priority]
    backends: dict[str, str]
    job_ids: Sequence[str] | None = None


class Ownership:
    """The store as one worker sees it. All methods raise StoreUnavailable and StoreFull."""

    def __init__(self, store: Store, writer: AsyncStore, settings: Settings) -> None:
        self._store = store
        self._writer = writer
        self._settings = settings
        self._worker = WorkerId.of_this_process()
        # two leaders do no harm, so a silent one is replaced long before a lease would run out
        leader_ttl_s = max(1.0, 3 * settings.sweep_interval_s)
        self._election = workers.Election(SWEEP, str(self._worker), leader_ttl_s)

    @property
    def worker_id(self) -> str:
        """Who this worker is."""
        return str(self._worker)

    async def register(self, backends: dict[str, str]) -> None:
        """Enter this worker in the list of workers."""
        await self._writer.run(
            workers.register_worker, self._worker, version=version("nsai-work"), backends=backends
        )

    async def claim(self, limit: int, choice: Selection) -> list[Claim]:
        """Take up to ``limit`` jobs."""
        return await self._writer.claim(self._wanted(limit, choice))

    def stand_by(self, limit: int, choice: Selection) -> Standing | None:
        """Take up to ``limit`` jobs as soon as notice is given of one; None where no notice is given."""
        return self._writer.stand_by(self._wanted(limit, choice))

    def _wanted(self, limit: int, choice: Selection) -> Wanted:
        return Wanted(
            worker_id=self.worker_id,
            limit=limit,
            lease_ttl_s=self._settings.lease_ttl_s,
            job_ids=choice.job_ids,
            priorities=None if len(choice.priorities) == len(Priority) else list(choice.priorities),
            backends=choice.backends,
        )

    async def heartbeat(self, claims: Sequence[Claim]) -> LeaseReport:
        """Renew leases, in one statement."""
        return await self._writer.heartbeat(claims, self._settings.lease_ttl_s)

    async def cancel_requests(self) -> frozenset[str]:
        """The jobs of this worker that somebody wants to stop."""
        return await self._writer.run(dispatching.cancel_requests, self.worker_id)

    async def finish(self, end: End) -> None:
        """End a job. Raises LeaseLost."""
        await self._writer.finish(end)

    async def requeue(self, back: Requeue) -> None:
        """Give a job back. Raises LeaseLost."""
        await self._writer.requeue(back)

    async def fences(self, job_ids: Sequence[str]) -> dict[str, int]:
        """The fences of those of the jobs that exist."""
        return await self._writer.run(dispatching.fences, job_ids)

    def journal(self, claim: Claim) -> Journal:
        """The journal of a claimed job."""
        return StoreJournal(self._writer, claim)

    async def status(self, job_id: str) -> JobStatus:
        """Where a job is in its life. Raises JobNotFound."""
        return (await self._writer.run(reading.get, job_id)).status

    async def events(self, job_id: str, after: int) -> list[EventRow]:
        """A job's log. Raises JobNotFound."""
        return await self._writer.run(reading.job_events, job_id, after=after)

    async def lead_sweep(self) -> bool:
        """Whether this worker is the one that sweeps; also says that it lives."""

        return await self._writer.run(self._campaign)

    def _campaign(self, tx: Tx) -> bool:
        workers.worker_seen(tx, self.worker_id)
        return self._election.campaign(tx)

    async def release_due(self) -> Released:
        """Move on what time has decided."""
        released = await self._writer.run(releasing.release_due)
        await self._writer.run(lanes.put_to_sleep)
        return released

    async def running_leases(self) -> list[Lease]:
        """All leases, of all workers."""
        return await self._writer.run(leases.leases)

    async def reclaim(self, expired: Sequence[Lease]) -> dict[str, JobStatus]:
        """Take expired leases from their owners."""
        return await self._writer.run(leases.reclaim, expired)

    async def overdue_hints(self, older_than_s: float) -> list[Hint]:
        """Wake-ups to publish once more."""
        return await self._writer.run(releasing.overdue_hints, older_than_s=older_than_s)

    async def release(self, claims: Sequence[Claim], reason: str) -> None:
        """Give jobs back that could not be handed over in order, so that others take them at once. Best effort:
        what cannot be given back now is found by its lease."""
        for claim in claims:
            with contextlib.suppress(CrucibleError):
                await self._writer.requeue(Requeue(claim, reason=reason, counts=False))

    async def close(self) -> None:
        """Say that this worker has ended, and let go of the database."""
        try:
            with contextlib.suppress(CrucibleError):
                await self._writer.run_within(LEAVE_PATIENCE_S, self._leave)
        finally:
            await self._writer.close()
            self._store.close()

    def _leave(self, tx: Tx) -> None:
        self._election.resign(tx)
        workers.worker_seen(tx, self.worker_id, stopped=True)


async def open_ownership(settings: Settings, clock: Clock) -> Ownership:
    """Connect to the store as a new worker.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    store = open_job_store(settings)
    await asyncio.to_thread(store.ping)
    return Ownership(store, AsyncStore(store.database, patience_s=settings.store_timeout_s), settings)
