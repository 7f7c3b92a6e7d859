"""freezegun moves our wall clock: start times, deadlines and delays pass at once; leases count real time."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from freezegun import freeze_time

from crucible import Prompt, connect
from nsai_work import JobStatus, Settings, submit
from nsai_work.clock import SystemClock
from nsai_work.concurrency.coroutine_runner import run_blocking
from nsai_work.errors import InvalidJob
from nsai_work.store.records import Selection
from nsai_work.testing import IsolatedStore, VirtualClock, isolated_store, run_jobs, virtual_clock
from nsai_work.worker import run_inline
from nsai_work.worker.runtime_thread import RuntimeThread
from nsai_work.worker.worker_store import open_worker_store
from tests.rig import command, until, until_running
from tests.working_store import WorkingStore, open_working_store

START = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def store() -> Iterator[IsolatedStore]:
    """An isolated store."""
    with isolated_store() as opened:
        yield opened


@pytest.fixture
def clock(store: IsolatedStore) -> Iterator[VirtualClock]:
    """A virtual clock."""
    with virtual_clock(START) as frozen:
        yield frozen


def test_the_clock_moves_only_when_told(clock: VirtualClock) -> None:
    """Forwards, backwards, and to a time of any zone; monotonic time goes on."""
    before = SystemClock().monotonic()
    assert clock.now() == SystemClock().now() == START
    assert clock.advance(90) == START + timedelta(seconds=90)
    assert clock.advance(timedelta(days=-400)) == SystemClock().now() == START + timedelta(seconds=90, days=-400)
    moment = datetime(2031, 5, 1, 12, tzinfo=UTC)
    assert clock.move_to(moment.astimezone()) == moment
    until(lambda: SystemClock().monotonic() > before, "monotonic time goes on", timeout_s=10)


def test_a_time_without_zone_is_refused(clock: VirtualClock) -> None:
    """Whose time would it be?"""
    with pytest.raises(ValueError, match="no time zone"):
        clock.move_to(datetime(2031, 1, 1))  # noqa: DTZ001 - that is the point
    with pytest.raises(ValueError, match="no time zone"), virtual_clock(datetime(2031, 1, 1)):  # noqa: DTZ001
        pass


def test_a_job_starts_when_its_time_has_come(clock: VirtualClock) -> None:
    """``not_before``, to the second."""
    handle = submit(command(constraints={"not_before": START + timedelta(hours=8)}))

    clock.advance(8 * 3600 - 1)
    assert run_jobs() == []
    assert handle.status() is JobStatus.PENDING
    clock.advance(1)
    assert [job.id for job in run_jobs()] == [handle.id]
    assert handle.job().started_at == START + timedelta(hours=8)


def test_a_job_that_waits_past_its_deadline_times_out(clock: VirtualClock) -> None:
    """By the virtual clock."""
    times = {"not_before": START + timedelta(hours=8), "deadline": START + timedelta(hours=9)}
    handle = submit(command(constraints=times))
    clock.move_to(START + timedelta(hours=9, seconds=1))
    run_jobs()

    assert handle.status() is JobStatus.TIMEOUT
    with pytest.raises(InvalidJob, match="has passed"):
        submit(command(constraints={"deadline": START + timedelta(hours=9)}))


def test_retries_wait_for_their_delays(clock: VirtualClock) -> None:
    """Hours pass at once; each delay is exactly that of the policy."""
    policy = {"max_attempts": 4, "initial_delay_ms": 3_600_000, "max_delay_ms": 86_400_000, "jitter": False}
    handle = submit(command("fail", arguments={"times": 3}, retry_policy=policy))
    for attempt, hours in enumerate((1, 2, 4), start=1):
        assert [job.attempt for job in run_jobs()] == [attempt]
        clock.advance(hours * 3600 - 1)
        assert run_jobs() == []
        assert handle.status() is JobStatus.QUEUED
        clock.advance(1)

    assert [job.status for job in run_jobs()] == [JobStatus.SUCCEEDED]
    assert handle.job().completed_at == START + timedelta(hours=7)


def test_a_clock_that_jumps_does_not_take_a_running_job_away() -> None:
    """Its lease counts real time: it is renewed a year later, and a year earlier."""
    with isolated_store(lease_ttl_s=4.0) as store, virtual_clock(START) as clock:
        handle = submit(command("sleep", arguments={"ms": 60_000}))
        worker = threading.Thread(target=run_jobs)
        worker.start()
        until_running(handle)
        observer = open_working_store(store.settings.database_url)
        for days in (365, -730):
            before = beats(observer)
            clock.advance(timedelta(days=days))
            until(lambda: beats(observer) > before, "the lease is renewed")  # noqa: B023 - called at once
        observer.close()
        handle.cancel()
        worker.join(60)

        assert handle.status() is JobStatus.CANCELED
        assert [event.name for event in handle.events()].count("job.running") == 1


def beats(store: WorkingStore) -> int:
    """The number of times the lease of the running job was renewed."""
    (lease,) = store.leases()
    return lease.beat


async def claim_and_vanish(settings: Settings, job_id: str) -> None:
    """Claim a job as a worker that is not heard of again."""
    store = await open_worker_store(settings, SystemClock())
    selection = Selection(job_ids=(job_id,), backends=(("fake", "fake"),))
    assert [claim.job_id for claim in await store.claim(1, selection)] == [job_id]
    await store.close()


def test_a_lease_expires_although_the_clock_stands_still() -> None:
    """The job of a lost worker is taken over after the lease's real duration."""
    with isolated_store(lease_ttl_s=0.8) as store, virtual_clock(START):
        handle = submit(command())
        run_blocking(claim_and_vanish(store.settings, handle.id))
        run_jobs()

        assert handle.status() is JobStatus.SUCCEEDED
        assert [event.name for event in handle.events()].count("job.running") == 2


def test_plain_freeze_time_stops_no_event_loop(store: IsolatedStore) -> None:
    """Without ``real_asyncio``: timers of the worker's loop, and ``result(timeout=...)``, count real time."""
    with freeze_time("2030-01-01") as frozen:
        slow = submit(command("sleep", arguments={"ms": 300}))
        later = submit(command(constraints={"not_before": "2030-01-02T00:00:00Z"}))
        run_jobs()
        with pytest.raises(TimeoutError):
            later.result(timeout=0.1)
        frozen.move_to("2030-01-02")
        run_jobs()

    assert slow.result(timeout=0) == {"slept_ms": 300}
    assert later.status() is JobStatus.SUCCEEDED
    until(lambda: abs((SystemClock().now() - datetime.now(UTC)).total_seconds()) < 60, "the clock is real again")


def test_no_worker_needs_real_asyncio(store: IsolatedStore) -> None:
    """Neither that of ``nsai-work run``, nor that of a worker process, nor a backend for blocking code."""
    with freeze_time("2030-01-01"):
        inline = submit(command("sleep", arguments={"ms": 300}))
        run_inline([inline.id], store.settings)
        worker = RuntimeThread(store.settings, concurrency=2)
        worker.start()
        threaded = submit(command("sleep", arguments={"ms": 300}))
        result = threaded.result(timeout=120)
        worker.stop()
        with connect("fake", {"script": {"delay_ms": 50}}) as backend:
            answer = backend.complete(Prompt(messages=({"role": "user", "content": "Hi"},)))

    assert inline.result(timeout=0) == result == {"slept_ms": 300}
    assert answer.choices
