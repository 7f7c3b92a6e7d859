"""What keeps the queue moving when nobody is looking: part of every worker, done by the one that leads.

A sweep takes leases from dead workers, moves on what time has decided, and publishes again what nobody has taken.
Each step is safe when two workers do it at once; the election only saves work.
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

AGAIN_AFTER_S = 10.0


class MaintenanceStore(Protocol):
    """What a sweep asks of the store."""

    async def lead_sweep(self) -> bool: ...

    async def release_due(self) -> DueJobs: ...

    async def running_leases(self) -> list[Lease]: ...

    async def reclaim(self, expired: Sequence[Lease], /) -> dict[str, JobStatus]: ...

    async def overdue_wake_ups(self, older_than_s: float, /) -> list[WakeUp]: ...


class Maintainer:
    """Sweeps every ``settings.sweep_interval_s``; ``on_change`` is called when something may have become due."""

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
        self._watch = LeaseWatch()
        self._sent: dict[tuple[str, int], float] = {}

    async def run(self) -> None:
        """Sweep for ever; a store that does not answer is tried again."""
        while True:
            try:
                if await self._store.lead_sweep():
                    await self.sweep()
            except CrucibleError as error:
                log.warning("sweep.failed", error=error.code)
            await asyncio.sleep(self._settings.sweep_interval_s)

    async def sweep(self) -> None:
        """One sweep."""
        moved = await self._take_over()
        released = await self._store.release_due()
        if moved or released.queued or released.failed or released.timed_out:
            self._on_change()
        await self._publish_overdue()

    async def _take_over(self) -> bool:
        observed = await self._store.running_leases()
        expired = set(self._watch.expired(observed, self._clock.monotonic()))
        expired.update(lease for lease in observed if known_dead(lease.worker_id))
        if not expired:
            return False
        for job_id, status in (await self._store.reclaim(list(expired))).items():
            log.warning("sweep.lease_expired", job_id=job_id, now=str(status))
        return True

    async def _publish_overdue(self) -> None:
        wake_ups = await self._store.overdue_wake_ups(self._settings.sweep_interval_s * 2)
        if not wake_ups:
            return
        self._on_change()
        fresh = self._not_sent_lately(wake_ups)
        if self._publisher is not None and fresh:
            await asyncio.to_thread(self._publisher.publish, fresh)

    def _not_sent_lately(self, wake_ups: Sequence[WakeUp]) -> list[WakeUp]:
        """A backlog that all workers are busy with needs no wake-up a second: each is sent again after a while."""
        now = self._clock.monotonic()
        self._sent = {key: at for key, at in self._sent.items() if now - at < AGAIN_AFTER_S}
        fresh = [wake_up for wake_up in wake_ups if (wake_up.job_id, wake_up.fence) not in self._sent]
        self._sent.update({(wake_up.job_id, wake_up.fence): now for wake_up in fresh})
        return fresh
