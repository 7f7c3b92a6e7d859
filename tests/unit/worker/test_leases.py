"""The owner's side of a lease: a job is stopped before another worker can claim it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from nsai_work.concurrency.control import StopReason
from nsai_work.errors import StoreUnavailable
from nsai_work.job import Job
from nsai_work.payloads import JobKind
from nsai_work.store.records import Claim, LeaseReport
from nsai_work.worker.attempts.attempt import Attempt
from nsai_work.worker.leases import OWNER_SHARE, STOP_S, LeaseKeeper

TTL_S = 1000.0
GRACE_S = 10.0
STOPPED_AFTER_S = GRACE_S * OWNER_SHARE - STOP_S


@dataclass
class Presence:
    """A presence that the test sets; by default there is none."""

    grace: float | None = None
    session_began_at: float | None = None
    session_confirmed_at: float | None = None

    def grace_s(self, *, repeatable: bool) -> float | None:
        return 0.5 if repeatable else self.grace


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

    async def unavailable(claims: Sequence[Claim], graces_s: Mapping[str, float | None]) -> LeaseReport:
        raise StoreUnavailable("unavailable")

    async def scenario() -> None:
        keeper = LeaseKeeper(unavailable, Presence(), clock, ttl_s=TTL_S, interval_s=1)
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

    async def slow(claims: Sequence[Claim], graces_s: Mapping[str, float | None]) -> LeaseReport:
        clock.seconds += TTL_S * 0.7
        return _report(held=["a"])

    async def scenario() -> None:
        keeper = LeaseKeeper(slow, Presence(), clock, ttl_s=TTL_S, interval_s=1)
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

    async def answer(claims: Sequence[Claim], graces_s: Mapping[str, float | None]) -> LeaseReport:
        assert {claim.job_id for claim in claims} == {"held", "cancel", "lost"}
        return _report(held=["held", "cancel"], lost=["lost"], cancel=["cancel"])

    async def scenario() -> None:
        keeper = LeaseKeeper(answer, Presence(), clock, ttl_s=TTL_S, interval_s=1)
        attempts = {name: _attempt(name, clock.monotonic()) for name in ("held", "cancel", "lost")}
        for attempt in attempts.values():
            keeper.add(attempt)
        await keeper.renew_all()
        reasons = {name: attempt.control.reason for name, attempt in attempts.items()}
        assert reasons == {"held": None, "cancel": StopReason.CANCEL, "lost": StopReason.LEASE_LOST}

    asyncio.run(scenario())


async def _stops(
    presence: Presence, clock: ManualClock, *, renewed_at: float, repeatable: bool = False
) -> StopReason | None:
    """Why a job is stopped now whose lease was renewed then."""

    async def never(claims: Sequence[Claim], graces_s: Mapping[str, float | None]) -> LeaseReport:
        raise AssertionError

    keeper = LeaseKeeper(never, presence, clock, ttl_s=TTL_S, interval_s=1)
    attempt = _attempt("a", renewed_at)
    attempt.control.set_repeatable(repeatable)
    keeper.add(attempt)
    keeper.stop_overdue()
    return attempt.control.reason


@pytest.mark.parametrize(
    ("presence", "renewed_at", "repeatable", "stopped"),
    [
        pytest.param(Presence(GRACE_S, 50, 100), 99, False, True, id="not confirmed for too long"),
        pytest.param(Presence(GRACE_S, 50, 100.2), 99, False, False, id="confirmed just in time"),
        pytest.param(Presence(GRACE_S, 50, 100), 99, True, False, id="work that can be repeated goes on"),
        pytest.param(Presence(GRACE_S, 105, 106), 100, False, True, id="back, but the lease not renewed since"),
        pytest.param(Presence(GRACE_S, 105, 106), 100.2, False, False, id="back, the lease not renewed yet"),
        pytest.param(Presence(GRACE_S, 105, 106), 105, False, False, id="back, and the lease renewed"),
        pytest.param(Presence(None, None, None), 99, False, False, id="without a presence the lease alone counts"),
        pytest.param(Presence(0.0, None, None), 99, False, False, id="a process lock cannot break"),
    ],
)
def test_work_that_cannot_be_repeated_stops_before_others_take_it(
    presence: Presence, renewed_at: float, repeatable: bool, stopped: bool
) -> None:
    """Counted from the last use of the session that succeeded; a new session counts from the renewal on it."""
    clock = ManualClock()
    clock.seconds = 100 + STOPPED_AFTER_S + 0.1

    reason = asyncio.run(_stops(presence, clock, renewed_at=renewed_at, repeatable=repeatable))

    assert reason == (StopReason.LEASE_LOST if stopped else None)


def test_a_changed_grace_is_written_at_once() -> None:
    """A job that turns out to be repeatable does not wait for the next interval."""

    async def scenario() -> None:
        written: asyncio.Queue[Mapping[str, float | None]] = asyncio.Queue()

        async def answer(claims: Sequence[Claim], graces_s: Mapping[str, float | None]) -> LeaseReport:
            written.put_nowait(graces_s)
            return _report(held=["a"])

        keeper = LeaseKeeper(answer, Presence(GRACE_S, 1, 1), ManualClock(), ttl_s=TTL_S, interval_s=600)
        attempt = _attempt("a", 100)
        keeper.add(attempt)
        beating = asyncio.create_task(keeper.run_heartbeats())
        attempt.control.set_repeatable(True)
        async with asyncio.timeout(30):
            assert await written.get() == {"a": 0.5}
        beating.cancel()

    asyncio.run(scenario())
