"""The lease keeper: renews the leases of all running jobs, and stops jobs whose lease may be lost.

While the store is available, its report decides. Otherwise this process's monotonic clock does: if the last
successful heartbeat of a job was *sent* too long ago, the job is stopped before another worker can regard its lease
as expired.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from crucible.errors import CrucibleError
from nsai_work.clock import Clock
from nsai_work.control import StopReason
from nsai_work.logs import get_logger
from nsai_work.store.records import Claim, LeaseReport
from nsai_work.worker.attempts.attempt import Attempt

log = get_logger(__name__)

# the owner stops a job after this share of the lease; observers wait for all of it, and clocks may drift by 10%
OWNER_SHARE = 0.8

# heartbeats report cancel requests too, but may be many seconds apart
POLL_CANCELS_S = 0.5

Heartbeat = Callable[[Sequence[Claim]], Awaitable[LeaseReport]]
CancelRequests = Callable[[], Awaitable[frozenset[str]]]


class LeaseKeeper:
    """Renews the leases of a worker's attempts, with one statement per heartbeat."""

    def __init__(self, heartbeat: Heartbeat, clock: Clock, *, ttl_s: float, interval_s: float) -> None:
        self._heartbeat = heartbeat
        self._clock = clock
        self._ttl_s = ttl_s
        self._interval_s = interval_s
        self._attempts: dict[str, Attempt] = {}

    def add(self, attempt: Attempt) -> None:
        """Renew this attempt's lease from now on."""
        self._attempts[attempt.job_id] = attempt

    def remove(self, attempt: Attempt) -> None:
        """Stop renewing the lease of an attempt that has ended."""
        if self._attempts.get(attempt.job_id) is attempt:
            del self._attempts[attempt.job_id]

    async def run_heartbeats(self) -> None:
        """Renew all leases at each interval, forever."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.renew_all()

    async def run_cancel_polls(self, read_requests: CancelRequests) -> None:
        """Stop the jobs of cancel requests, forever, and sooner than the next heartbeat would."""
        while True:
            await asyncio.sleep(POLL_CANCELS_S)
            if not self._attempts:
                continue
            try:
                job_ids = await read_requests()
            except CrucibleError:
                # the next heartbeat reports them too
                continue
            for job_id in job_ids & self._attempts.keys():
                self._attempts[job_id].control.stop(StopReason.CANCEL)

    async def run_expiry_checks(self) -> None:
        """Stop attempts whose lease is overdue, forever. Independent of heartbeats, which may hang in the store."""
        while True:
            await asyncio.sleep(self._ttl_s / 20)
            self.stop_overdue()

    async def renew_all(self) -> None:
        """Renew all leases once and apply the store's report. An error of the store is logged."""
        attempts = list(self._attempts.values())
        if not attempts:
            return
        sent_at = self._clock.monotonic()
        try:
            report = await self._heartbeat([attempt.claim for attempt in attempts])
        except CrucibleError as error:
            log.warning("lease.heartbeat_failed", error=error.code, jobs=len(attempts))
            return
        for attempt in attempts:
            self._apply(attempt, report, sent_at)

    def stop_overdue(self) -> None:
        """Stop every attempt whose last renewal is too long ago."""
        oldest = self._clock.monotonic() - self._ttl_s * OWNER_SHARE
        for attempt in list(self._attempts.values()):
            if attempt.renewed_at < oldest and attempt.control.reason is not StopReason.LEASE_LOST:
                log.warning("lease.overdue", job_id=attempt.job_id, fence=attempt.claim.fence)
                attempt.control.stop(StopReason.LEASE_LOST)

    def _apply(self, attempt: Attempt, report: LeaseReport, sent_at: float) -> None:
        if attempt.job_id in report.lost and not attempt.recording:
            log.warning("lease.lost", job_id=attempt.job_id, fence=attempt.claim.fence)
            attempt.control.stop(StopReason.LEASE_LOST)
        elif attempt.job_id in report.held:
            attempt.renewed_at = sent_at
        if attempt.job_id in report.cancel_requested:
            attempt.control.stop(StopReason.CANCEL)
