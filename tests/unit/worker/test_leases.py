"""The owner's side of a lease: a job is stopped before another worker can claim it."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from nsai_work.control import StopReason
from nsai_work.errors import StoreUnavailable
from nsai_work.job import Job
from nsai_work.payloads import JobKind
from nsai_work.store.records import Claim, LeaseReport
from nsai_work.worker.attempts.attempt import Attempt
from nsai_work.worker.leases import LeaseKeeper

TTL_S = 10.0


class ManualClock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic(self) -> float:
        return self.seconds


def _attempt(job_id: str, renewed_at: float) -> Attempt:
    job = Job(id=job_id, kind=JobKind.COMPOSITE, payload={})
    claim = Claim(job=job, seq=1, fence=1, attempt=1, worker_id="w", backend="fake", credential="fake")
    return Attempt(claim, renewed_at=renewed_at)


def _report(held: Sequence[str] = (), lost: Sequence[str] = (), cancel: Sequence[str] = ()) -> LeaseReport:
    return LeaseReport(frozenset(held), frozenset(lost), frozenset(cancel))


def test_an_unavailable_store_costs_the_lease_before_it_expires() -> None:
    """While heartbeats fail a job continues, and is stopped before another worker can reclaim it."""
    clock = ManualClock()

    async def unavailable(claims: Sequence[Claim]) -> LeaseReport:
        raise StoreUnavailable("unavailable")

    async def scenario() -> None:
        keeper = LeaseKeeper(unavailable, clock, ttl_s=TTL_S, interval_s=1)
        attempt = _attempt("a", clock.monotonic())
        keeper.add(attempt)
        clock.seconds += TTL_S * 0.7
        await keeper.renew_all()
        keeper.stop_overdue()
        assert attempt.control.reason is None
        clock.seconds += TTL_S * 0.2
        keeper.stop_overdue()
        assert attempt.control.reason is StopReason.LEASE_LOST

    asyncio.run(scenario())


def test_a_lease_counts_from_when_the_heartbeat_was_sent() -> None:
    """A slow answer does not extend it: observers count from the moment when they saw the renewal."""
    clock = ManualClock()

    async def slow(claims: Sequence[Claim]) -> LeaseReport:
        clock.seconds += TTL_S * 0.7
        return _report(held=["a"])

    async def scenario() -> None:
        keeper = LeaseKeeper(slow, clock, ttl_s=TTL_S, interval_s=1)
        attempt = _attempt("a", clock.monotonic())
        keeper.add(attempt)
        await keeper.renew_all()
        clock.seconds += TTL_S * 0.2
        keeper.stop_overdue()
        assert attempt.control.reason is StopReason.LEASE_LOST

    asyncio.run(scenario())


def test_the_report_is_applied_to_each_job() -> None:
    """One heartbeat for three jobs: a lease is held, a job is to be canceled, a lease is lost."""
    clock = ManualClock()

    async def answer(claims: Sequence[Claim]) -> LeaseReport:
        assert {claim.job_id for claim in claims} == {"held", "cancel", "lost"}
        return _report(held=["held", "cancel"], lost=["lost"], cancel=["cancel"])

    async def scenario() -> None:
        keeper = LeaseKeeper(answer, clock, ttl_s=TTL_S, interval_s=1)
        attempts = {name: _attempt(name, clock.monotonic()) for name in ("held", "cancel", "lost")}
        for attempt in attempts.values():
            keeper.add(attempt)
        await keeper.renew_all()
        reasons = {name: attempt.control.reason for name, attempt in attempts.items()}
        assert reasons == {"held": None, "cancel": StopReason.CANCEL, "lost": StopReason.LEASE_LOST}

    asyncio.run(scenario())
