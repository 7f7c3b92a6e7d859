"""The fetcher: what triggers a claim, how many jobs it requests, and how wake-ups are counted."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from nsai_work.clock import SystemClock
from nsai_work.dispatch.wakeup import WakeUp
from nsai_work.errors import StoreUnavailable
from nsai_work.job import Job, Priority
from nsai_work.payloads import JobKind
from nsai_work.store.records import Claim
from nsai_work.worker.fetcher import MAX_BATCH, Fetcher

FOREVER_S = 3600


class FakeStandingClaim:
    """A standing claim whose result the test sets."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.done: asyncio.Future[Sequence[Claim]] = asyncio.get_running_loop().create_future()
        self.began_at = 7.0
        self.executing = False
        self.down = False

    def stand_down(self) -> bool:
        if self.executing or self.done.done():
            return False
        self.down = True
        return True


class Queue:
    """The queue as the fetcher uses it: a number of ready jobs, and the fences of known jobs."""

    def __init__(self, ready: int = 0) -> None:
        self.ready = ready
        self.limits: list[int] = []
        self.started: list[Claim] = []
        self.known: dict[str, int] = {}
        self.failures = 0
        self.claimed = asyncio.Event()
        self.may_return = asyncio.Event()
        self.may_return.set()
        self.started_at: list[float] = []
        self.standing: list[FakeStandingClaim] = []

    async def claim(self, limit: int) -> Sequence[Claim]:
        self.limits.append(limit)
        await self.may_return.wait()
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("unavailable")
        count = min(limit, self.ready)
        self.ready -= count
        return [_claim(f"job-{len(self.limits)}-{number}") for number in range(count)]

    def start(self, claim: Claim, at: float) -> None:
        self.started.append(claim)
        self.started_at.append(at)
        self.claimed.set()

    def stand_by(self, limit: int) -> FakeStandingClaim:
        self.standing.append(FakeStandingClaim(limit))
        return self.standing[-1]

    async def fences(self, job_ids: Sequence[str]) -> dict[str, int]:
        return {job_id: self.known[job_id] for job_id in job_ids if job_id in self.known}


def _claim(job_id: str) -> Claim:
    job = Job(id=job_id, kind=JobKind.COMPOSITE, payload={})
    return Claim(job=job, seq=1, fence=1, attempt=1, worker_id="w", backend="fake", credential="fake")


def _fetcher(
    queue: Queue, *, concurrency: int = 100, poll_interval_s: float = FOREVER_S, notifications: bool = False
) -> Fetcher:
    options = {"stand_by": queue.stand_by} if notifications else {}
    return Fetcher(
        queue.claim,
        queue.start,
        queue.fences,
        SystemClock(),
        concurrency=concurrency,
        poll_interval_s=poll_interval_s,
        **options,
    )


async def _settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


@asynccontextmanager
async def _running(queue: Queue, **options: Any) -> AsyncIterator[Fetcher]:
    """A running fetcher, as ``_fetcher`` makes it, after its first claims."""
    fetcher = _fetcher(queue, **options)
    task = asyncio.create_task(fetcher.run())
    await _settle()
    try:
        yield fetcher
    finally:
        task.cancel()


def test_a_backlog_is_claimed_without_a_wake_up_per_job() -> None:
    """While a claim returns as many jobs as requested, another follows at once, up to the worker's concurrency."""

    async def scenario() -> None:
        queue = Queue(ready=1000)
        async with _running(queue, concurrency=150) as fetcher:
            assert queue.limits == [MAX_BATCH, MAX_BATCH, 150 - 2 * MAX_BATCH]
            assert fetcher.running == 150
            fetcher.job_ended()
            await _settle()
            assert fetcher.running == 150

    asyncio.run(scenario())


def test_a_wake_up_triggers_a_claim() -> None:
    """Without delay, whatever the polling interval."""

    async def scenario() -> None:
        queue = Queue()
        async with _running(queue) as fetcher:
            assert len(queue.limits) == 1
            queue.ready = 1
            fetcher.wake(WakeUp(job_id="any", fence=0, priority=Priority.BATCH))
            await _settle()
            assert len(queue.started) == 1

    asyncio.run(scenario())


def test_it_polls() -> None:
    """Without any wake-up, a job is claimed within the polling interval."""

    async def scenario() -> None:
        queue = Queue()
        async with _running(queue, poll_interval_s=0.01):
            queue.ready = 1
            async with asyncio.timeout(5):
                await queue.claimed.wait()

    asyncio.run(scenario())


def test_a_failed_claim_is_retried() -> None:
    """An unavailable store does not end the fetcher."""

    async def scenario() -> None:
        queue = Queue(ready=1)
        queue.failures = 2
        async with _running(queue, poll_interval_s=0.01):
            async with asyncio.timeout(5):
                await queue.claimed.wait()

    asyncio.run(scenario())


def test_wake_ups_are_classified() -> None:
    """As unknown, stale, or taken by another worker; all are harmless."""

    async def scenario() -> None:
        queue = Queue()
        queue.known = {"taken": 1, "old": 7}
        async with _running(queue) as fetcher:
            for job_id, fence in (("nobody", 0), ("taken", 0), ("old", 2)):
                fetcher.wake(WakeUp(job_id=job_id, fence=fence, priority=Priority.BATCH))
            await _settle()
            assert dict(fetcher.counts) == {"unknown": 1, "taken": 1, "stale": 1}

    asyncio.run(scenario())


def test_a_claim_stands_by_while_there_is_capacity() -> None:
    """It is for all of the free capacity. The leases of its jobs count from the time when it was sent."""

    async def scenario() -> None:
        queue = Queue()
        async with _running(queue, concurrency=3, notifications=True):
            assert [standing.limit for standing in queue.standing] == [3]
            queue.standing[0].done.set_result([_claim("notified")])
            await _settle()
            assert [claim.job_id for claim in queue.started] == ["notified"]
            assert queue.started_at == [7.0]
            # it claims once more, then stands by for the remaining capacity
            assert [standing.limit for standing in queue.standing] == [3, 2]

    asyncio.run(scenario())


def test_a_trigger_withdraws_the_standing_claim() -> None:
    """Only one claim is in progress at a time; a standing claim that already executes is awaited."""

    async def scenario() -> None:
        queue = Queue()
        async with _running(queue, notifications=True) as fetcher:
            fetcher.trigger()
            await _settle()
            assert queue.standing[0].down
            assert len(queue.limits) == 2

            queue.standing[1].executing = True
            fetcher.trigger()
            await _settle()
            assert len(queue.limits) == 2
            queue.standing[1].done.set_result([_claim("late")])
            await _settle()
            assert [claim.job_id for claim in queue.started] == ["late"]
            assert len(queue.limits) == 3

    asyncio.run(scenario())


def test_no_claim_stands_by_without_free_capacity() -> None:
    """A busy worker leaves jobs to other workers."""

    async def scenario() -> None:
        queue = Queue(ready=5)
        async with _running(queue, concurrency=2, notifications=True):
            assert len(queue.started) == 2
            assert queue.standing == []

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [StoreUnavailable("unavailable"), RuntimeError("a defect")])
def test_a_failed_standing_claim_is_retried(error: Exception) -> None:
    """The database may become unavailable at that moment too, and a defect must not end all claims of a worker."""

    async def scenario() -> None:
        queue = Queue()
        async with _running(queue, notifications=True):
            queue.ready = 1
            queue.standing[0].done.set_exception(error)
            await _settle()
            assert len(queue.started) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("notifications", [False, True])
def test_the_jobs_of_a_claim_in_progress_are_started_on_cancellation(notifications: bool) -> None:
    """No other worker would start them before their leases have expired."""

    async def scenario() -> None:
        queue = Queue()
        fetcher = _fetcher(queue, notifications=notifications)
        task = asyncio.create_task(fetcher.run())
        await _settle()
        if notifications:
            queue.standing[0].executing = True
        else:
            queue.ready = 1
            queue.may_return.clear()
            fetcher.trigger()
        await _settle()
        task.cancel()
        await _settle()
        assert not task.done()
        if notifications:
            queue.standing[0].done.set_result([_claim("job")])
        else:
            queue.may_return.set()
        await _settle()
        assert task.cancelled()
        assert len(queue.started) == 1

    asyncio.run(scenario())


def test_a_wake_up_of_a_job_that_was_claimed_here_triggers_nothing() -> None:
    """It arrives after the database's notification of the same jobs. One with a newer fence triggers a claim."""

    async def scenario() -> None:
        queue = Queue(ready=1)
        async with _running(queue) as fetcher:
            job_id, claims = queue.started[0].job_id, len(queue.limits)
            fetcher.wake(WakeUp(job_id=job_id, fence=0, priority=Priority.BATCH))
            await _settle()
            assert len(queue.limits) == claims
            assert fetcher.counts["taken"] == 1
            fetcher.wake(WakeUp(job_id=job_id, fence=1, priority=Priority.BATCH))
            await _settle()
            assert len(queue.limits) == claims + 1

    asyncio.run(scenario())


def test_a_declined_job_withdraws_the_standing_claim() -> None:
    """The claim was registered for jobs that the worker has declined since; the next one is made at once."""

    async def scenario() -> None:
        queue = Queue()
        async with _running(queue, notifications=True) as fetcher:
            (old,) = queue.standing

            fetcher.reselect()

            assert old.down
            await _settle()
            assert len(queue.standing) == 2
            assert not queue.standing[1].down

    asyncio.run(scenario())


def test_a_standing_claim_that_runs_is_awaited() -> None:
    """It was sent before the job was declined, so it cannot return it; its jobs are started."""

    async def scenario() -> None:
        queue = Queue()
        async with _running(queue, notifications=True) as fetcher:
            (old,) = queue.standing
            old.executing = True

            fetcher.reselect()
            await _settle()
            assert len(queue.standing) == 1
            old.done.set_result([_claim("job")])
            await _settle()

            assert [claim.job_id for claim in queue.started] == ["job"]
            assert len(queue.standing) == 2

    asyncio.run(scenario())
