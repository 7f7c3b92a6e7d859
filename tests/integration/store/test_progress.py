"""The progress of a training job, from its recorded steps; and what a worker counts of them."""

import asyncio
from collections.abc import Callable

from crucible.training import RunRef
from nsai_work.cli.commands.jobs import progress_fields
from nsai_work.job import Job
from nsai_work.journal import RemoteRun, ResumeMode, StepRecord
from nsai_work.store import AsyncStore, ClaimRequest, StoreJournal
from nsai_work.store.records import TrainingProgress
from nsai_work.telemetry.job_events import training_counts
from tests.integration.store.conftest import ManualClock
from tests.working_store import WorkingStore


def run_record(generation: int, from_step: int, lost_steps: int = 0) -> RemoteRun:
    ref = RunRef(backend="fake", run_id=f"run{generation}")
    resume = ResumeMode.UNVERIFIED if lost_steps else ResumeMode.FRESH
    return RemoteRun(generation=generation, ref=ref, from_step=from_step, resume=resume, lost_steps=lost_steps)


def step_record(step: int, generation: int) -> StepRecord:
    return StepRecord(step=step, epoch=0, loss=1.0 / step, tokens=100, learning_rate=1e-4, generation=generation)


def test_progress_follows_the_newest_run(
    store: WorkingStore,
    clock: ManualClock,
    make_job: Callable[..., Job],
    claim_request: Callable[..., ClaimRequest],
) -> None:
    """Step and loss are the newest that count; the speed is that since the restore."""
    store.submit([make_job()])
    (claim,) = store.claim(claim_request())
    before = training_counts.all()
    seen: list[TrainingProgress | None] = [store.progress(claim.job_id)]

    async def scenario() -> None:
        async_store = AsyncStore(store.database)
        journal = StoreJournal(async_store, claim)
        await journal.load()
        await journal.begin_run(run_record(1, 0))
        await journal.complete_step(step_record(1, 1), 1)
        seen.append(store.progress(claim.job_id))
        for step in (2, 3, 4):
            clock.pass_time(2.0)
            await journal.complete_step(step_record(step, 1), step)
        seen.append(store.progress(claim.job_id))
        clock.pass_time(1_000.0)
        await journal.begin_run(run_record(2, 2, lost_steps=2))
        for step in (3, 4, 5):
            await journal.complete_step(step_record(step, 2), step)
            clock.pass_time(0.5)
        seen.append(store.progress(claim.job_id))
        await async_store.close()

    asyncio.run(scenario())

    assert seen == [
        None,
        TrainingProgress(1, 1.0, None, None, "fresh"),
        TrainingProgress(4, 0.25, 0.5, 50.0, "fresh"),
        TrainingProgress(5, 0.2, 2.0, 200.0, "unverified"),
    ]
    counted = {key: number - before.get(key, 0) for key, number in training_counts.all().items()}
    assert [counted["steps", kind] for kind in ("new", "replayed", "superseded")] == [5, 2, 2]


def test_the_time_left_follows_from_the_speed(make_job: Callable[..., Job]) -> None:
    """Without a speed or a number of steps it is left out, and while the job waits."""
    job = make_job().model_copy(update={"payload": {"max_steps": 150}})
    shown = dict(progress_fields(job, TrainingProgress(30, 2.5, 0.5, 1234.0, "warm")))
    assert shown == {
        "step": "30 of 150",
        "reward": None,
        "loss": 2.5,
        "speed": "1,234 tokens/s",
        "time left": "about 4 min 00 s",
        "last resume": "warm",
    }
    first = dict(progress_fields(job, TrainingProgress(1, 2.5, None, None, "fresh")))
    assert (first["speed"], first["time left"]) == (None, None)
    waiting = job.model_copy(update={"wait_reason": "the service is away"})
    held_up = dict(progress_fields(waiting, TrainingProgress(30, 2.5, 0.5, 1234.0, "warm")))
    assert (held_up["step"], held_up["speed"], held_up["time left"]) == ("30 of 150", None, None)
    assert progress_fields(job, None) == []
