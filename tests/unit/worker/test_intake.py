"""The claiming loop: what makes it look, how much it asks for, and what became of hints."""

import asyncio
from collections.abc import Sequence

from nsai_work.clock import SystemClock
from nsai_work.dispatch.wakeup import WakeUp
from nsai_work.errors import StoreUnavailable
from nsai_work.job import Job
from nsai_work.payloads import JobKind
from nsai_work.store.records import Claim
from nsai_work.worker.intake import LARGEST_BATCH, Intake

FOREVER_S = 3600


class Queue:
    """Ready jobs, as the intake sees them: a number, and the epochs of known jobs."""

    def __init__(self, ready: int = 0) -> None:
        self.ready = ready
        self.asked: list[int] = []
        self.begun: list[Claim] = []
        self.known: dict[str, int] = {}
        self.failures = 0
        self.took = asyncio.Event()

    async def take(self, limit: int) -> Sequence[Claim]:
        self.asked.append(limit)
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("away")
        got = min(limit, self.ready)
        self.ready -= got
        return [_claim(f"job-{len(self.asked)}-{number}") for number in range(got)]

    def begin(self, claim: Claim, at: float) -> None:
        self.begun.append(claim)
        self.took.set()

    async def epochs(self, job_ids: Sequence[str]) -> dict[str, int]:
        return {job_id: self.known[job_id] for job_id in job_ids if job_id in self.known}


def _claim(job_id: str) -> Claim:
    job = Job(id=job_id, kind=JobKind.COMPOSITE, payload={})
    return Claim(job=job, seq=1, epoch=1, attempt=1, worker_id="w", backend="fake", credential="fake")


def _intake(queue: Queue, *, concurrency: int = 100, poll_interval_s: float = FOREVER_S) -> Intake:
    return Intake(
        queue.take,
        queue.begin,
        queue.epochs,
        SystemClock(),
        concurrency=concurrency,
        poll_interval_s=poll_interval_s,
    )


async def _settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def test_a_backlog_is_drained_without_a_hint_for_each() -> None:
    """As long as a claim gets all it asked for, another follows at once, up to the worker's concurrency."""

    async def scenario() -> None:
        queue = Queue(ready=1000)
        intake = _intake(queue, concurrency=150)
        task = asyncio.create_task(intake.run())
        await _settle()
        assert queue.asked == [LARGEST_BATCH, LARGEST_BATCH, 150 - 2 * LARGEST_BATCH]
        assert intake.running == 150
        intake.ended()
        await _settle()
        assert intake.running == 150
        task.cancel()

    asyncio.run(scenario())


def test_a_hint_makes_it_look() -> None:
    """Between looks it sleeps; a hint wakes it at once."""

    async def scenario() -> None:
        queue = Queue()
        intake = _intake(queue)
        task = asyncio.create_task(intake.run())
        await _settle()
        assert len(queue.asked) == 1
        queue.ready = 1
        intake.wake(WakeUp(job_id="any", epoch=0))
        await _settle()
        assert len(queue.begun) == 1
        task.cancel()

    asyncio.run(scenario())


def test_it_looks_by_itself() -> None:
    """Without any hint, a job is found within the polling interval."""

    async def scenario() -> None:
        queue = Queue()
        task = asyncio.create_task(_intake(queue, poll_interval_s=0.01).run())
        await _settle()
        queue.ready = 1
        async with asyncio.timeout(5):
            await queue.took.wait()
        task.cancel()

    asyncio.run(scenario())


def test_a_store_that_is_away_is_asked_again() -> None:
    """A failing claim ends nothing."""

    async def scenario() -> None:
        queue = Queue(ready=1)
        queue.failures = 2
        task = asyncio.create_task(_intake(queue, poll_interval_s=0.01).run())
        async with asyncio.timeout(5):
            await queue.took.wait()
        task.cancel()

    asyncio.run(scenario())


def test_hints_are_judged() -> None:
    """Unknown, stale, or taken by another: each is counted as what it is, and harmless."""

    async def scenario() -> None:
        queue = Queue()
        queue.known = {"taken": 1, "old": 7}
        intake = _intake(queue)
        task = asyncio.create_task(intake.run())
        await _settle()
        for job_id, epoch in (("nobody", 0), ("taken", 0), ("old", 2)):
            intake.wake(WakeUp(job_id=job_id, epoch=epoch))
        await _settle()
        assert dict(intake.counts) == {"unknown": 1, "taken": 1, "stale": 1}
        task.cancel()

    asyncio.run(scenario())
