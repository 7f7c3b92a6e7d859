"""Keeps the leases of all running jobs with one statement per beat, and stops jobs whose lease may have passed on.

What the store answers decides while it answers; when it does not, this process's monotonic clock does: a job whose
last successful beat was *sent* longer ago than most of the lease's time is stopped, before anybody else can
have taken it for dead.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from crucible.errors import CrucibleError
from nsai_work.clock import Clock
from nsai_work.control import StopReason
from nsai_work.logs import get_logger
from nsai_work.store.records import Claim, LeaseReport
from nsai_work.worker.attempt import Attempt

log = get_logger(__name__)

# the owner lets go at this part of the lease; an observer waits for all of it, by a clock that may run 10% off
OWNERS_SHARE = 0.8

# a lease may be long; a person who cancels a job waits
CANCEL_LOOK_S = 0.5

Heartbeat = Callable[[Sequence[Claim]], Awaitable[LeaseReport]]
CancelRequests = Callable[[], Awaitable[frozenset[str]]]


class LeaseKeeper:
    """The leases of one worker."""

    def __init__(self, heartbeat: Heartbeat, clock: Clock, *, ttl_s: float, interval_s: float) -> None:
        self._heartbeat = heartbeat
        self._clock = clock
        self._ttl_s = ttl_s
        self._interval_s = interval_s
        self._attempts: dict[str, Attempt] = {}

    def add(self, attempt: Attempt) -> None:
        """Keep this attempt's lease from now on."""
        self._attempts[attempt.job_id] = attempt

    def remove(self, attempt: Attempt) -> None:
        """The attempt has ended."""
        if self._attempts.get(attempt.job_id) is attempt:
            del self._attempts[attempt.job_id]

    async def keep(self) -> None:
        """Beat for ever."""
        while True:
            await asyncio.sleep(self._interval_s)
            await self.beat()

    async def watch_cancels(self, requests: CancelRequests) -> None:
        """Pass requests to cancel on, sooner than the next beat would, for ever."""
        while True:
            await asyncio.sleep(CANCEL_LOOK_S)
            if not self._attempts:
                continue
            try:
                wanted = await requests()
            except CrucibleError:
                # the next beat says it too, and the guard watches over both
                continue
            for job_id in wanted & self._attempts.keys():
                self._attempts[job_id].control.stop(StopReason.CANCEL)

    async def guard(self) -> None:
        """Stop what has not been renewed in time, for ever. Apart from ``keep``, which may hang in the store."""
        while True:
            await asyncio.sleep(self._ttl_s / 20)
            self.stop_overdue()

    async def beat(self) -> None:
        """Renew all leases once and pass on what the store says. A store that fails is waited for."""
        attempts = list(self._attempts.values())
        if not attempts:
            return
        sent_at = self._clock.monotonic()
        try:
            report = await self._heartbeat([attempt.claim for attempt in attempts])
        except CrucibleError as error:
            log.warning("lease.beat_failed", error=error.code, jobs=len(attempts))
            return
        for attempt in attempts:
            self._apply(attempt, report, sent_at)

    def stop_overdue(self) -> None:
        """Stop every attempt whose lease is no longer safely ours."""
        oldest = self._clock.monotonic() - self._ttl_s * OWNERS_SHARE
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
