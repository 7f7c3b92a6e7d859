"""The maintainer: periodic maintenance of the queue, performed by the worker that is elected leader.

A sweep reclaims the jobs of expired leases, releases jobs whose delay or dependencies are over, and publishes the
wake-ups of overdue jobs again. Each step is safe on two workers at once; the election only avoids duplicate work.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from crucible.errors import CrucibleError
from nsai_work.clock import Clock
from nsai_work.dispatch.publisher import Publisher
from nsai_work.lifecycle import JobStatus
from nsai_work.logs import get_logger
from nsai_work.settings import Settings
from nsai_work.store.maintenance.leases import LeaseWatch
from nsai_work.store.records import DueJobs, Lease, WakeUp
from nsai_work.worker_id import known_dead

log = get_logger(__name__)

REPUBLISH_AFTER_S = 10.0


class MaintenanceStore(Protocol):
    """The store as the maintainer uses it."""

    async def lead(self) -> bool: ...

    async def release_due(self) -> DueJobs: ...

    async def running_leases(self) -> list[Lease]: ...

    async def reclaim(self, expired: Sequence[Lease], /) -> dict[str, JobStatus]: ...

    async def overdue_wake_ups(self, older_than_s: float, /) -> list[WakeUp]: ...


class Maintainer:
    """Sweeps every ``settings.sweep_interval_s``. Calls ``on_change`` when jobs may have become claimable."""

    def __init__(
        self,
        store: MaintenanceStore,
        publisher: Publisher | None,
        clock: Clock,
        on_change: Callable[[], None],
        settings: Settings,
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._clock = clock
        self._on_change = on_change
        self._settings = settings
        self._lease_watch = LeaseWatch()
        self._published_at: dict[tuple[str, int], float] = {}

    async def run(self) -> None:
        """Sweep forever, while this worker is the leader. An error of the store is logged."""
        while True:
            try:
                if await self._store.lead():
                    await self.sweep()
            except CrucibleError as error:
                log.warning("sweep.failed", error=error.code)
            await asyncio.sleep(self._settings.sweep_interval_s)

    async def sweep(self) -> None:
        """Sweep once."""
        reclaimed = await self._reclaim_expired()
        released = await self._store.release_due()
        if reclaimed or released.queued or released.failed or released.timed_out:
            self._on_change()
        await self._publish_overdue()

    async def _reclaim_expired(self) -> bool:
        observed = await self._store.running_leases()
        expired = set(self._lease_watch.expired(observed, self._clock.monotonic()))
        # asked once for each worker, which may have hundreds of leases
        dead = {worker_id for worker_id in {lease.worker_id for lease in observed} if known_dead(worker_id)}
        expired.update(lease for lease in observed if lease.worker_id in dead)
        if not expired:
            return False
        for job_id, status in (await self._store.reclaim(list(expired))).items():
            log.warning("sweep.lease_expired", job_id=job_id, status=str(status))
        return True

    async def _publish_overdue(self) -> None:
        wake_ups = await self._store.overdue_wake_ups(self._settings.sweep_interval_s * 2)
        if not wake_ups:
            return
        self._on_change()
        due = self._not_recently_published(wake_ups)
        if self._publisher is not None and due:
            await asyncio.to_thread(self._publisher.publish, due)

    def _not_recently_published(self, wake_ups: Sequence[WakeUp]) -> list[WakeUp]:
        # while all workers are busy, each sweep finds the same backlog
        now = self._clock.monotonic()
        self._published_at = {key: at for key, at in self._published_at.items() if now - at < REPUBLISH_AFTER_S}
        due = [wake_up for wake_up in wake_ups if (wake_up.job_id, wake_up.fence) not in self._published_at]
        self._published_at.update({(wake_up.job_id, wake_up.fence): now for wake_up in due})
        return due
