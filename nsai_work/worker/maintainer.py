"""The maintainer: periodic maintenance of the queue, performed by the worker that is elected leader.

A sweep reclaims the jobs of expired leases, releases jobs whose delay or dependencies are over, and publishes the
wake-ups of overdue jobs again. Between sweeps, the leader looks for owners whose presence has ended, and the others
for a leader whose presence has, as long as jobs run. Each step is safe on two workers at once; the election only
avoids duplicate work.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

from crucible.errors import CrucibleError
from nsai_work.clock import Clock
from nsai_work.dispatch.publisher import Publisher
from nsai_work.lifecycle import JobStatus
from nsai_work.settings import Settings
from nsai_work.store.maintenance.absence import AbsenceWatch
from nsai_work.store.maintenance.leases import LeaseWatch
from nsai_work.store.maintenance.rescuer import LEASE_EXPIRED, WORKER_ABSENT
from nsai_work.store.records import Absence, DueJobs, Leadership, Lease, WakeUp
from nsai_work.telemetry.logs import get_logger

log = get_logger(__name__)

PRESENCE_POLL_S: Final = 0.2
"""The time between two looks at the presence of others. A statement that waits for a lock would be sooner, but hold
a snapshot for hours, during which PostgreSQL removes no dead rows."""
IDLE_INTERVALS: Final = 2
REPUBLISH_AFTER_S = 10.0


class MaintenanceStore(Protocol):
    """The store as the maintainer uses it."""

    @property
    def worker_id(self) -> str: ...

    async def lead(self) -> Leadership: ...

    async def is_leader_absent(self) -> bool: ...

    async def absent(self, worker_ids: Collection[str], /) -> Absence: ...

    async def forget_ended(self, keep: Collection[str], /) -> None: ...

    async def release_due(self) -> DueJobs: ...

    async def running_leases(self) -> list[Lease]: ...

    async def reclaim(self, ended: Sequence[Lease], reason: str, /) -> dict[str, JobStatus]: ...

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
        self._absence_watch = AbsenceWatch()
        self._owners: frozenset[str] = frozenset()
        self._was_open = True
        self._published_at: dict[tuple[str, int], float] = {}

    async def run(self) -> None:
        """Sweep forever, while this worker is the leader. An error of the store is logged."""
        while True:
            leadership = Leadership(leads=False, any_open=True)
            try:
                leadership = await self._store.lead()
                if leadership.leads and (leadership.any_open or self._was_open):
                    await self.sweep()
                self._was_open = leadership.any_open or not leadership.leads
            except CrucibleError as error:
                log.warning("sweep.failed", error=error.code)
            await self._await_next_sweep(leadership)

    async def sweep(self) -> None:
        """Sweep once."""
        reclaimed = await self._reclaim_expired()
        released = await self._store.release_due()
        if reclaimed or released.queued or released.failed or released.timed_out:
            self._on_change()
        await self._publish_overdue()

    async def _reclaim_expired(self) -> bool:
        observed = await self._store.running_leases()
        expired = self._lease_watch.expired(observed, self._clock.monotonic())
        self._owners = frozenset(lease.worker_id for lease in observed if lease.grace_s is not None)
        self._owners -= {self._store.worker_id}
        reclaimed = await self._reclaim_absent()
        await self._store.forget_ended(self._owners)
        return await self._reclaim(expired, LEASE_EXPIRED) or reclaimed

    async def _await_next_sweep(self, leadership: Leadership) -> None:
        """Return when the next sweep is due, or a campaign that this worker wins. Without any open job, all workers
        look at the database half as often."""
        intervals = 1 if leadership.any_open else IDLE_INTERVALS
        due_at = self._clock.monotonic() + intervals * self._settings.sweep_interval_s
        while (left_s := due_at - self._clock.monotonic()) > 0:
            looks = bool(self._owners) if leadership.leads else leadership.any_open
            await asyncio.sleep(min(left_s, self._next_look_s()) if looks else left_s)
            try:
                if looks and leadership.leads:
                    if await self._reclaim_absent():
                        self._on_change()
                elif looks and await self._store.is_leader_absent():
                    return
            except CrucibleError as error:
                log.debug("presence.not_known", error=error.code)

    def _next_look_s(self) -> float:
        next_end = self._absence_watch.next_end
        if next_end is None:
            return PRESENCE_POLL_S
        return min(max(next_end - self._clock.monotonic(), 0.0), PRESENCE_POLL_S)

    async def _reclaim_absent(self) -> bool:
        """Reclaim the jobs of owners that have been absent for their grace. Returns whether there were any."""
        suspects = (await self._store.absent(self._owners)).worker_ids
        # without suspects the earlier ones are forgotten. Leases are read before the presence that they are held to
        observed = await self._store.running_leases() if suspects else []
        absence = await self._store.absent(suspects)
        ended = self._absence_watch.ended(observed, absence, self._clock.monotonic())
        return await self._reclaim(ended, WORKER_ABSENT)

    async def _reclaim(self, ended: Sequence[Lease], reason: str) -> bool:
        if not ended:
            return False
        for job_id, status in (await self._store.reclaim(ended, reason)).items():
            log.warning("sweep.reclaimed", job_id=job_id, reason=reason, status=str(status))
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
