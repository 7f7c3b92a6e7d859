"""The lease keeper: renews the leases of all running jobs, and stops jobs whose lease may be lost.

While the store is available, its report decides. Otherwise this process's monotonic clock does: if the last
successful heartbeat of a job was *sent* too long ago, the job is stopped before another worker can regard its lease
as expired. So is a job whose work cannot be repeated, if the session that is this worker's presence has not been
used with success for so long that others may soon regard the worker as absent.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from crucible.errors import CrucibleError
from nsai_work.clock import Clock
from nsai_work.concurrency.control import StopReason
from nsai_work.store.records import Claim, LeaseReport
from nsai_work.telemetry.logs import get_logger
from nsai_work.worker.attempts.attempt import Attempt

log = get_logger(__name__)

# the owner stops a job after this share of the lease; observers wait for all of it, and clocks may drift by 10%
OWNER_SHARE = 0.8

# a function in a process of its own is killed so long after it was asked to stop
STOP_S = 2.0

# heartbeats report cancel requests too, but may be many seconds apart. Each poll also confirms the session
POLL_CANCELS_S = 0.5

Heartbeat = Callable[[Sequence[Claim], Mapping[str, float | None]], Awaitable[LeaseReport]]
CancelRequests = Callable[[], Awaitable[frozenset[str]]]


class OwnPresence(Protocol):
    """This worker's presence. Its session began at ``session_began_at`` and certainly existed at
    ``session_confirmed_at``, both monotonic; None without a session."""

    @property
    def session_began_at(self) -> float | None: ...

    @property
    def session_confirmed_at(self) -> float | None: ...

    def grace_s(self, *, repeatable: bool) -> float | None:
        """The time for which this worker may be absent before others take a job; None without a presence."""
        ...


def last_presence(before: float, renewed_at: float, began_at: float, confirmed_at: float) -> float:
    """Return the monotonic time from which the grace of a job counts, if the owner should be absent; ``before`` is
    the one returned last.

    A new session counts only once the job's lease has been renewed on it: that is how an observer notices that the
    owner was back, if it looked only before and after.
    """
    return confirmed_at if renewed_at >= began_at else before


class LeaseKeeper:
    """Renews the leases of a worker's attempts, with one statement per heartbeat."""

    def __init__(
        self, heartbeat: Heartbeat, presence: OwnPresence, clock: Clock, *, ttl_s: float, interval_s: float
    ) -> None:
        self._heartbeat = heartbeat
        self._presence = presence
        self._clock = clock
        self._ttl_s = ttl_s
        self._interval_s = interval_s
        self._attempts: dict[str, Attempt] = {}
        self._due = asyncio.Event()

    def add(self, attempt: Attempt) -> None:
        """Renew this attempt's lease from now on."""
        self._attempts[attempt.job_id] = attempt
        self._move_end(attempt)
        # others learn of the other grace with the next heartbeat
        attempt.control.on_repeatable = self._due.set

    def remove(self, attempt: Attempt) -> None:
        """Stop renewing the lease of an attempt that has ended."""
        if self._attempts.get(attempt.job_id) is attempt:
            del self._attempts[attempt.job_id]

    async def run_heartbeats(self) -> None:
        """Renew all leases at each interval, and when the grace of one has changed, forever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._due.wait()
            self._due.clear()
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
            await asyncio.sleep(min(self._ttl_s, self._presence.grace_s(repeatable=False) or self._ttl_s) / 20)
            self.stop_overdue()

    async def renew_all(self) -> None:
        """Renew all leases once and apply the store's report. An error of the store is logged."""
        attempts = list(self._attempts.values())
        if not attempts:
            return
        sent_at = self._clock.monotonic()
        graces_s = {
            attempt.job_id: self._presence.grace_s(repeatable=attempt.control.repeatable) for attempt in attempts
        }
        try:
            report = await self._heartbeat([attempt.claim for attempt in attempts], graces_s)
        except CrucibleError as error:
            log.warning("lease.heartbeat_failed", error=error.code, jobs=len(attempts))
            return
        for attempt in attempts:
            self._apply(attempt, report, sent_at)

    def stop_overdue(self) -> None:
        """Stop every attempt whose last renewal is too long ago, or which others may take before it could end."""
        now = self._clock.monotonic()
        for attempt in list(self._attempts.values()):
            if attempt.control.reason is StopReason.LEASE_LOST:
                continue
            overdue = now - attempt.renewed_at > self._ttl_s * OWNER_SHARE
            absent = self._may_seem_absent(attempt, now)
            self._move_end(attempt)
            if overdue or (absent and not attempt.control.repeatable):
                reason = "lease.overdue" if overdue else "lease.session_lost"
                log.warning(reason, job_id=attempt.job_id, fence=attempt.claim.fence)
                attempt.control.stop(StopReason.LEASE_LOST)

    def _may_seem_absent(self, attempt: Attempt, now: float) -> bool:
        """Check whether others may see this worker as absent before a job that cannot be repeated would have
        ended."""
        grace_s = self._presence.grace_s(repeatable=False)
        # in this order: a session that begins in between has not confirmed anything for the one before it
        confirmed_at = self._presence.session_confirmed_at
        began_at = self._presence.session_began_at
        if grace_s is None or began_at is None or confirmed_at is None:
            return False
        if attempt.renewed_at < began_at:
            self._due.set()
        attempt.present_at = last_presence(attempt.present_at, attempt.renewed_at, began_at, confirmed_at)
        return now - attempt.present_at > grace_s * OWNER_SHARE - STOP_S

    def _move_end(self, attempt: Attempt) -> None:
        """Note until when the job is certainly this worker's, if it should stand still from now on."""
        attempt.owned_until = attempt.renewed_at + self._ttl_s * OWNER_SHARE
        grace_s = self._presence.grace_s(repeatable=False)
        if grace_s is not None and self._presence.session_began_at is not None:
            attempt.owned_until = min(attempt.owned_until, attempt.present_at + grace_s * OWNER_SHARE)

    def _apply(self, attempt: Attempt, report: LeaseReport, sent_at: float) -> None:
        if attempt.job_id in report.lost and not attempt.recording:
            log.warning("lease.lost", job_id=attempt.job_id, fence=attempt.claim.fence)
            attempt.control.stop(StopReason.LEASE_LOST)
        elif attempt.job_id in report.held:
            attempt.renewed_at = sent_at
            self._move_end(attempt)
        if attempt.job_id in report.cancel_requested:
            attempt.control.stop(StopReason.CANCEL)
