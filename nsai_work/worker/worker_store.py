"""A worker's side of the store: everything it asks and tells, under one worker id. Async, group-committed."""

import asyncio
import contextlib
from collections.abc import Sequence
from importlib.metadata import version

from crucible.errors import CrucibleError
from nsai_work.client.connections import open_job_store
from nsai_work.client.follow import Update
from nsai_work.clock import Clock
from nsai_work.journal import Journal
from nsai_work.lifecycle import JobStatus
from nsai_work.settings import Settings
from nsai_work.store import AsyncStore, StandingClaim, Store
from nsai_work.store.engine.database import Tx
from nsai_work.store.journal.adapter import StoreJournal
from nsai_work.store.maintenance import workers
from nsai_work.store.queries import jobs as reading
from nsai_work.store.queries import wake_ups
from nsai_work.store.records import (
    Claim,
    ClaimRequest,
    DueJobs,
    Lease,
    LeaseReport,
    Outcome,
    Selection,
    WakeUp,
)
from nsai_work.worker_id import WorkerId

SWEEP = "sweep"
LEAVE_PATIENCE_S = 1.0


class WorkerStore:
    """The store as one worker sees it. All methods raise StoreUnavailable and StoreFull."""

    def __init__(self, store: Store, store_async: AsyncStore, settings: Settings) -> None:
        self._store = store
        self._store_async = store_async
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
        await self._store_async.run(
            workers.register_worker, self._worker, version=version("nsai-work"), backends=backends
        )

    async def claim(self, limit: int, selection: Selection) -> list[Claim]:
        """Claim up to ``limit`` jobs."""
        return await self._store_async.claim(self._request(limit, selection))

    def stand_by(self, limit: int, selection: Selection) -> StandingClaim | None:
        """Claim up to ``limit`` jobs on the next notification; None where the store sends none."""
        return self._store_async.stand_by(self._request(limit, selection))

    def _request(self, limit: int, selection: Selection) -> ClaimRequest:
        return ClaimRequest(self.worker_id, limit, self._settings.lease_ttl_s, selection)

    async def heartbeat(self, claims: Sequence[Claim]) -> LeaseReport:
        """Renew leases, in one statement."""
        return await self._store_async.heartbeat(claims, self._settings.lease_ttl_s)

    async def cancel_requests(self) -> frozenset[str]:
        """The jobs of this worker that somebody wants to stop."""
        return await self._store_async.run(wake_ups.cancel_requests, self.worker_id)

    async def finish(self, claim: Claim, outcome: Outcome) -> None:
        """End a job. Raises LeaseLost."""
        await self._store_async.finish(claim, outcome)

    async def requeue(self, claim: Claim, outcome: Outcome) -> None:
        """Requeue a job. Raises LeaseLost."""
        await self._store_async.requeue(claim, outcome)

    async def fences(self, job_ids: Sequence[str]) -> dict[str, int]:
        """The fences of those of the jobs that exist."""
        return await self._store_async.run(wake_ups.fences, job_ids)

    def journal(self, claim: Claim) -> Journal:
        """The journal of a claimed job."""
        return StoreJournal(self._store_async, claim)

    async def read_update(self, job_id: str, after: int) -> Update:
        """Poll a job once: its status, then its events after entry number ``after``. Raises JobNotFound."""
        status = (await self._store_async.run(reading.get, job_id)).status
        return Update(job_id, status, await self._store_async.run(reading.job_events, job_id, after=after))

    async def lead_sweep(self) -> bool:
        """Whether this worker is the one that sweeps; also says that it lives."""

        return await self._store_async.run(self._campaign)

    def _campaign(self, tx: Tx) -> bool:
        workers.worker_seen(tx, self.worker_id)
        return self._election.campaign(tx)

    async def release_due(self) -> DueJobs:
        """Queue the jobs whose delay is over or whose dependencies have ended, and
        time out those past their deadline."""
        return await self._store_async.release_due()

    async def running_leases(self) -> list[Lease]:
        """The leases of all workers."""
        return await self._store_async.running_leases()

    async def reclaim(self, expired: Sequence[Lease]) -> dict[str, JobStatus]:
        """Requeue or end the jobs of expired leases. Returns the new status by job id."""
        return await self._store_async.reclaim(expired)

    async def overdue_wake_ups(self, older_than_s: float) -> list[WakeUp]:
        """Wake-ups to publish again."""
        return await self._store_async.overdue_wake_ups(older_than_s)

    async def release(self, claims: Sequence[Claim], reason: str) -> None:
        """Give jobs back that could not be handed over in order, so that others take them at once. Best effort:
        what cannot be given back now is found by its lease."""
        for claim in claims:
            with contextlib.suppress(CrucibleError):
                await self._store_async.requeue(claim, Outcome.released(reason))

    async def close(self) -> None:
        """Say that this worker has ended, and let go of the database."""
        try:
            with contextlib.suppress(CrucibleError):
                await self._store_async.run_within(LEAVE_PATIENCE_S, self._leave)
        finally:
            await self._store_async.close()
            self._store.close()

    def _leave(self, tx: Tx) -> None:
        self._election.resign(tx)
        workers.worker_seen(tx, self.worker_id, stopped=True)


async def open_worker_store(settings: Settings, clock: Clock) -> WorkerStore:
    """Connect to the store as a new worker.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    store = open_job_store(settings)
    await asyncio.to_thread(store.ping)
    return WorkerStore(store, AsyncStore(store.database, patience_s=settings.store_timeout_s), settings)
