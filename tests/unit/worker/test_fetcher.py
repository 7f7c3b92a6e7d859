"""The claiming loop: what makes it look, how much it asks for, and what became of wake-ups."""

import asyncio
from collections.abc import Sequence

import pytest

from nsai_work.clock import SystemClock
from nsai_work.dispatch.wakeup import WakeUp
from nsai_work.errors import StoreUnavailable
from nsai_work.job import Job, Priority
from nsai_work.payloads import JobKind
from nsai_work.store.records import Claim
from nsai_work.worker.fetcher import MAX_BATCH, Fetcher

FOREVER_S = 3600


class Standing:
    """A claim that stands by until the test gives notice."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.done: asyncio.Future[Sequence[Claim]] = asyncio.get_running_loop().create_future()
        self.began_at = 7.0
        self.being_made = False
        self.down = False

    def stand_down(self) -> bool:
        if self.being_made or self.done.done():
            return False
        self.down = True
        return True


class Queue:
    """Ready jobs, as the fetcher sees them: a number, and the fences of known jobs."""

    def __init__(self, ready: int = 0) -> None:
        self.ready = ready
        self.asked: list[int] = []
        self.begun: list[Claim] = []
        self.known: dict[str, int] = {}
        self.failures = 0
        self.took = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.begun_at: list[float] = []
        self.standing: list[Standing] = []

    async def take(self, limit: int) -> Sequence[Claim]:
        self.asked.append(limit)
        await self.may_answer.wait()
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("away")
        got = min(limit, self.ready)
        self.ready -= got
        return [_claim(f"job-{len(self.asked)}-{number}") for number in range(got)]

    def begin(self, claim: Claim, at: float) -> None:
        self.begun.append(claim)
        self.begun_at.append(at)
        self.took.set()

    def stand_by(self, limit: int) -> Standing:
        self.standing.append(Standing(limit))
        return self.standing[-1]

    async def fences(self, job_ids: Sequence[str]) -> dict[str, int]:
        return {job_id: self.known[job_id] for job_id in job_ids if job_id in self.known}


def _claim(job_id: str) -> Claim:
    job = Job(id=job_id, kind=JobKind.COMPOSITE, payload={})
    return Claim(job=job, seq=1, fence=1, attempt=1, worker_id="w", backend="fake", credential="fake")


def _fetcher(
    queue: Queue, *, concurrency: int = 100, poll_interval_s: float = FOREVER_S, notices: bool = False
) -> Fetcher:
    options = {"stand_by": queue.stand_by} if notices else {}
    return Fetcher(
        queue.take,
        queue.begin,
        queue.fences,
        SystemClock(),
        concurrency=concurrency,
        poll_interval_s=poll_interval_s,
        **options,
    )


async def _settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def test_a_backlog_is_drained_without_a_wake_up_for_each() -> None:
    """As long as a claim gets all it asked for, another follows at once, up to the worker's concurrency."""

    async def scenario() -> None:
        queue = Queue(ready=1000)
        fetcher = _fetcher(queue, concurrency=150)
        task = asyncio.create_task(fetcher.run())
        await _settle()
        assert queue.asked == [MAX_BATCH, MAX_BATCH, 150 - 2 * MAX_BATCH]
        assert fetcher.running == 150
        fetcher.job_ended()
        await _settle()
        assert fetcher.running == 150
        task.cancel()

    asyncio.run(scenario())


def test_a_wake_up_makes_it_look() -> None:
    """Between looks it sleeps; a wake-up wakes it at once."""

    async def scenario() -> None:
        queue = Queue()
        fetcher = _fetcher(queue)
        task = asyncio.create_task(fetcher.run())
        await _settle()
        assert len(queue.asked) == 1
        queue.ready = 1
        fetcher.wake(WakeUp(job_id="any", fence=0, priority=Priority.BATCH))
        await _settle()
        assert len(queue.begun) == 1
        task.cancel()

    asyncio.run(scenario())


def test_it_looks_by_itself() -> None:
    """Without any wake-up, a job is found within the polling interval."""

    async def scenario() -> None:
        queue = Queue()
        task = asyncio.create_task(_fetcher(queue, poll_interval_s=0.01).run())
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
        task = asyncio.create_task(_fetcher(queue, poll_interval_s=0.01).run())
        async with asyncio.timeout(5):
            await queue.took.wait()
        task.cancel()

    asyncio.run(scenario())


def test_wake_ups_are_judged() -> None:
    """Unknown, stale, or taken by another: each is counted as what it is, and harmless."""

    async def scenario() -> None:
        queue = Queue()
        queue.known = {"taken": 1, "old": 7}
        fetcher = _fetcher(queue)
        task = asyncio.create_task(fetcher.run())
        await _settle()
        for job_id, fence in (("nobody", 0), ("taken", 0), ("old", 2)):
            fetcher.wake(WakeUp(job_id=job_id, fence=fence, priority=Priority.BATCH))
        await _settle()
        assert dict(fetcher.counts) == {"unknown": 1, "taken": 1, "stale": 1}
        task.cancel()

    asyncio.run(scenario())


def test_a_claim_stands_by_while_there_is_room() -> None:
    """Between looks a claim for all free places stands by; what it takes is begun, dated from when it was made."""

    async def scenario() -> None:
        queue = Queue()
        task = asyncio.create_task(_fetcher(queue, concurrency=3, notices=True).run())
        await _settle()
        assert [standing.limit for standing in queue.standing] == [3]
        queue.standing[0].done.set_result([_claim("told")])
        await _settle()
        assert [claim.job_id for claim in queue.begun] == ["told"]
        assert queue.begun_at == [7.0]
        # it looks whether there is more, and stands by with the places that are left
        assert [standing.limit for standing in queue.standing] == [3, 2]
        task.cancel()

    asyncio.run(scenario())


def test_another_reason_to_look_makes_it_stand_down() -> None:
    """Only one claim is under way at a time; one that can no longer be taken back is waited for."""

    async def scenario() -> None:
        queue = Queue()
        fetcher = _fetcher(queue, notices=True)
        task = asyncio.create_task(fetcher.run())
        await _settle()
        fetcher.trigger()
        await _settle()
        assert queue.standing[0].down
        assert len(queue.asked) == 2

        queue.standing[1].being_made = True
        fetcher.trigger()
        await _settle()
        assert len(queue.asked) == 2
        queue.standing[1].done.set_result([_claim("late")])
        await _settle()
        assert [claim.job_id for claim in queue.begun] == ["late"]
        assert len(queue.asked) == 3
        task.cancel()

    asyncio.run(scenario())


def test_no_claim_stands_by_when_all_places_are_taken() -> None:
    """A full worker leaves jobs to others."""

    async def scenario() -> None:
        queue = Queue(ready=5)
        task = asyncio.create_task(_fetcher(queue, concurrency=2, notices=True).run())
        await _settle()
        assert len(queue.begun) == 2
        assert queue.standing == []
        task.cancel()

    asyncio.run(scenario())


def test_a_failing_standing_claim_ends_nothing() -> None:
    """The database may go away at that moment too."""

    async def scenario() -> None:
        queue = Queue()
        task = asyncio.create_task(_fetcher(queue, notices=True).run())
        await _settle()
        queue.ready = 1
        queue.standing[0].done.set_exception(StoreUnavailable("away"))
        await _settle()
        assert len(queue.begun) == 1
        task.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize("notices", [False, True])
def test_what_is_being_claimed_when_it_is_cancelled_is_begun(notices: bool) -> None:
    """Nobody else would begin these jobs before their leases have run out."""

    async def scenario() -> None:
        queue = Queue()
        fetcher = _fetcher(queue, notices=notices)
        task = asyncio.create_task(fetcher.run())
        await _settle()
        if notices:
            queue.standing[0].being_made = True
        else:
            queue.ready = 1
            queue.may_answer.clear()
            fetcher.trigger()
        await _settle()
        task.cancel()
        await _settle()
        assert not task.done()
        if notices:
            queue.standing[0].done.set_result([_claim("job")])
        else:
            queue.may_answer.set()
        await _settle()
        assert task.cancelled()
        assert len(queue.begun) == 1

    asyncio.run(scenario())


def test_a_wake_up_of_a_job_that_was_claimed_here_is_no_reason_to_look() -> None:
    """It comes after the database's own notice; what came with it was seen with it. A newer one is a reason."""

    async def scenario() -> None:
        queue = Queue(ready=1)
        fetcher = _fetcher(queue)
        task = asyncio.create_task(fetcher.run())
        await _settle()
        job_id, looks = queue.begun[0].job_id, len(queue.asked)
        fetcher.wake(WakeUp(job_id=job_id, fence=0, priority=Priority.BATCH))
        await _settle()
        assert len(queue.asked) == looks
        assert fetcher.counts["taken"] == 1
        fetcher.wake(WakeUp(job_id=job_id, fence=1, priority=Priority.BATCH))
        await _settle()
        assert len(queue.asked) == looks + 1
        task.cancel()

    asyncio.run(scenario())
