"""The store as a worker uses it: its queries and updates, under its worker id."""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import version

from pydantic import JsonValue

from crucible.errors import CrucibleError
from nsai_work.blobs.access import require_place
from nsai_work.client.connections import open_job_store
from nsai_work.client.follow import JobUpdate
from nsai_work.clock import Clock
from nsai_work.job import Job
from nsai_work.journal import Journal
from nsai_work.lifecycle import JobStatus
from nsai_work.settings import Settings
from nsai_work.store import AsyncStore, StandingClaim, Store
from nsai_work.store.engine.database import Tx
from nsai_work.store.journal import spans, waits
from nsai_work.store.journal.adapter import StoreJournal
from nsai_work.store.maintenance import alerts, workers
from nsai_work.store.maintenance.leader import Election
from nsai_work.store.queries import goodput as goodput_queries
from nsai_work.store.queries import jobs as job_queries
from nsai_work.store.queries import wake_ups
from nsai_work.store.records import (
    Absence,
    Claim,
    ClaimRequest,
    DueJobs,
    Leadership,
    Lease,
    LeaseReport,
    NotedEvent,
    Outcome,
    OutcomeKind,
    Selection,
    WakeUp,
)
from nsai_work.store.worker_id import WorkerId
from nsai_work.telemetry import job_events
from nsai_work.telemetry.goodput import Goodput
from nsai_work.worker.attempts.job_files import JobFiles

LEADERSHIP = "sweep"
DELIVERY = "alerts"
DEREGISTER_TIMEOUT_S = 1.0
REPEATABLE_GRACE_S = 0.3
"""The grace of work that can be repeated, enough to replace a broken connection. A takeover from an owner that is
alive costs it nothing but the job: a longer grace would only delay the takeover from one that has died."""


class WorkerStore:
    """The async store with the id and settings of a worker. All methods raise StoreUnavailable and StoreFull."""

    def __init__(self, store: Store, store_async: AsyncStore, settings: Settings, worker: WorkerId) -> None:
        self._store = store
        self._store_async = store_async
        self._settings = settings
        self.files = JobFiles(store, settings)
        self._worker = worker
        # two leaders are harmless, so an unresponsive one is replaced long before a lease would expire
        leader_ttl_s = max(1.0, 4 * settings.sweep_interval_s)
        self._declined: Callable[[], Mapping[str, str]] = dict
        self._absent_rivals: frozenset[str] = frozenset()
        self._election = Election(LEADERSHIP, str(self._worker), leader_ttl_s)
        self._delivery = Election(DELIVERY, str(self._worker), leader_ttl_s)

    @property
    def worker_id(self) -> str:
        """The id of this worker."""
        return str(self._worker)

    async def register(
        self, selection: Selection, backends: dict[str, str], declined: Callable[[], Mapping[str, str]]
    ) -> None:
        """Register this worker with the jobs that it is there for and the backends that it can use. ``declined``
        returns the backends that it cannot use, with the reasons, whenever it reports."""
        self._declined = declined

        def register(tx: Tx) -> None:
            workers.register_worker(
                tx,
                self._worker,
                version=version("nsai-work"),
                backends=backends,
                declined=declined(),
                selection=selection,
                seen_every_s=self._settings.sweep_interval_s,
                # known now that the store is connected
                has_presence=self._store_async.has_presence,
            )

        await self._store_async.run(register)

    async def claim(self, limit: int, selection: Selection) -> list[Claim]:
        """Claim up to ``limit`` jobs."""
        return await self._store_async.claim(self._request(limit, selection))

    def stand_by(self, limit: int, selection: Selection) -> StandingClaim | None:
        """Claim up to ``limit`` jobs on the next notification; None where the store sends none."""
        return self._store_async.stand_by(self._request(limit, selection))

    def _request(self, limit: int, selection: Selection) -> ClaimRequest:
        grace_s = self.grace_s(repeatable=False)
        return ClaimRequest(self.worker_id, limit, self._settings.lease_ttl_s, selection, grace_s)

    @property
    def session_began_at(self) -> float | None:
        """The monotonic time since which this worker has been connected without a break; None without a session."""
        return self._store_async.session_began_at

    @property
    def session_confirmed_at(self) -> float | None:
        """The monotonic time at which the session that is this worker's presence certainly existed; None without
        one."""
        return self._store_async.session_confirmed_at

    def grace_s(self, *, repeatable: bool) -> float | None:
        """The time for which this worker may be absent before others take a job; None if it has no presence."""
        if not self._store_async.has_presence:
            return None
        if not self._store.database.postgres:
            # the lock of a process ends with the process alone
            return 0.0
        return REPEATABLE_GRACE_S if repeatable else self._settings.presence_grace_s

    async def heartbeat(self, claims: Sequence[Claim], graces_s: Mapping[str, float | None]) -> LeaseReport:
        """Renew leases, in one statement. ``graces_s`` are the graces by job id."""
        return await self._store_async.heartbeat(claims, self._settings.lease_ttl_s, graces_s)

    async def cancel_requests(self) -> frozenset[str]:
        """Return the ids of this worker's jobs that are to be canceled."""
        return await self._store_async.run(job_queries.cancel_requests, self.worker_id)

    async def finish(self, claim: Claim, outcome: Outcome) -> None:
        """End a job. Raises LeaseLost."""
        await self._store_async.finish(claim, outcome)

    async def requeue(self, claim: Claim, outcome: Outcome) -> None:
        """Requeue a job. Raises LeaseLost."""
        await self._store_async.requeue(claim, outcome)
        if outcome.kind is OutcomeKind.DECLINED:
            await self._store_async.run(workers.worker_seen, self.worker_id, declined=self._declined())

    async def set_wait(
        self, claim: Claim, reason: str | None, event: tuple[str, dict[str, JsonValue]] | None
    ) -> None:
        """Record why a running job waits, or that it goes on. Raises LeaseLost."""
        await self._store_async.run(waits.set_wait, claim, reason, event)
        if event is not None:
            job_events.log_entry(claim.job_id, *event)

    async def goodput(self, job_id: str) -> Goodput:
        """Return where the wall time of a job went that is about to end."""
        return await self._store_async.run(goodput_queries.goodput, job_id, ending=True)

    async def record_span(self, claim: Claim, span: str) -> str | None:
        """Record the span of an attempt, a W3C traceparent. Returns that of the attempt before, if there is one."""
        return await self._store_async.run(spans.record_span, claim, span)

    async def is_mixed(self) -> bool:
        """Return whether processes of another version use the store too."""
        return await self._store_async.run(workers.is_mixed, version("nsai-work"))

    async def fences(self, job_ids: Sequence[str]) -> dict[str, int]:
        """Return the fencing token of each job that exists."""
        return await self._store_async.run(wake_ups.fences, job_ids)

    def journal(self, claim: Claim) -> Journal:
        """Return the journal of a claimed job."""
        return StoreJournal(self._store_async, claim)

    async def read_update(self, job_id: str, after: int) -> JobUpdate:
        """Poll a job once: its status, then its events after entry number ``after``. Raises JobNotFound."""
        status = (await self._store_async.run(job_queries.get, job_id)).status
        return JobUpdate(job_id, status, await self._store_async.run(job_queries.job_events, job_id, after=after))

    async def lead(self) -> Leadership:
        """Record that this worker is alive, and campaign for leadership."""
        return await self._store_async.run(self._campaign, self._declined())

    async def deliver_alerts(self) -> bool:
        """Campaign for the delivery of alerts; returns whether it is this worker's."""
        return await self._store_async.run(self._delivery.campaign)

    async def noted_events(self, target: str, names: Sequence[str], limit: int) -> list[NotedEvent]:
        """Return the next events of these names that a target was not sent, in order."""
        return await self._store_async.run(alerts.noted_events, target, names, limit)

    async def mark_sent(self, target: str, event: NotedEvent, failure: str | None) -> None:
        """Record that a target was sent an event, or with a reason that it never will be."""
        await self._store_async.run(alerts.mark_sent, target, event, failure)

    def _campaign(self, tx: Tx, declined: Mapping[str, str]) -> Leadership:
        any_open = workers.worker_seen(tx, self.worker_id, declined=declined)
        return Leadership(self._election.campaign(tx, self._absent_rivals), any_open)

    async def is_leader_absent(self) -> bool:
        """Return whether the leader's presence has ended; the next campaign then takes over from it."""
        rival = self._election.rival
        self._absent_rivals = (await self.absent([] if rival is None else [rival])).worker_ids
        return bool(self._absent_rivals)

    async def absent(self, worker_ids: Collection[str]) -> Absence:
        """Return which of the workers have no presence at this moment."""
        return await self._store_async.absent(worker_ids)

    async def forget_ended(self, keep: Collection[str]) -> None:
        """Delete what ended workers left of their presence, except for those in ``keep``."""
        await self._store_async.forget_ended(keep)

    async def release_due(self) -> DueJobs:
        """Queue the jobs whose delay or dependencies are over, and time out those past their deadline."""
        return await self._store_async.release_due()

    async def running_elsewhere(self, limit: int) -> list[Job]:
        """Return the oldest running jobs of other workers."""
        return await self._store_async.run(job_queries.running_elsewhere, self.worker_id, limit)

    async def running_leases(self) -> list[Lease]:
        """Return the leases of all running jobs, of all workers."""
        return await self._store_async.running_leases()

    async def reclaim(self, ended: Sequence[Lease], reason: str) -> dict[str, JobStatus]:
        """Requeue or end the jobs of ended leases. Returns the new status by job id."""
        return await self._store_async.reclaim(ended, reason=reason)

    async def overdue_wake_ups(self, older_than_s: float) -> list[WakeUp]:
        """Return wake-ups of the jobs that have been due for longer than that."""
        return await self._store_async.overdue_wake_ups(older_than_s)

    async def requeue_all(self, claims: Sequence[Claim], reason: str) -> None:
        """Requeue jobs that were not handed over. Best effort: otherwise their leases expire."""

        async def requeue(claim: Claim) -> None:
            with contextlib.suppress(CrucibleError):
                await self._store_async.requeue(claim, Outcome.released(reason))

        # together: each waits for a store that is away
        await asyncio.gather(*map(requeue, claims))

    def require_usable(self) -> None:
        """Raise StoreUnavailable if the store will never work again in this process."""
        self._store_async.require_usable()

    async def close(self) -> None:
        """Record that this worker has stopped, and close the database connections."""
        try:
            with contextlib.suppress(CrucibleError):
                await self._store_async.run_within(DEREGISTER_TIMEOUT_S, self._deregister)
        finally:
            await self._store_async.close()
            self._store.close()

    def _deregister(self, tx: Tx) -> None:
        self._election.resign(tx)
        self._delivery.resign(tx)
        workers.worker_seen(tx, self.worker_id, stopped=True)


async def open_worker_store(settings: Settings, clock: Clock) -> WorkerStore:
    """Connect to the store as a new worker.

    Raises:
        StoreUnavailable: the database is unavailable.
        BlobsElsewhere: the files of its jobs are in another place than the settings name.
    """
    store = open_job_store(settings)
    try:
        await asyncio.to_thread(require_place, settings, store.blobs)
    except BaseException:
        store.close()
        raise
    worker = WorkerId.of_this_process()
    store_async = AsyncStore(store.database, patience_s=settings.store_timeout_s, worker_id=str(worker))
    return WorkerStore(store, store_async, settings, worker)
