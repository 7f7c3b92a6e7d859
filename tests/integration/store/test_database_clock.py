"""Start times and deadlines count by the database's clock, whatever the wall clocks of the processes say."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from sqlalchemy import Connection, text

from crucible.training import IntentKind
from nsai_work.errors import InvalidJob
from nsai_work.job import Job
from nsai_work.journal import CheckpointRecord, Journal, JournalSnapshot
from nsai_work.lifecycle import JobStatus
from nsai_work.store import ClaimRequest, Outcome, Store
from nsai_work.store.claim import general
from nsai_work.store.engine.database_clock import MAX_ERROR_S, MAX_READINGS, REFRESH_S, DatabaseClock
from tests.integration.store.conftest import ManualClock
from tests.integration.store.test_journal import intent, run_record, with_journal
from tests.working_store import WorkingStore, open_working_store

MakeJob = Callable[..., Job]
MakeRequest = Callable[..., ClaimRequest]


@pytest.mark.postgres
@pytest.mark.parametrize("off_by_s", [-3600, 3600], ids=["an hour slow", "an hour fast"])
class TestWrongWallClock:
    """Processes whose wall clock is wrong, on PostgreSQL."""

    @pytest.fixture
    def store(self, postgres_store_url: str, clock: ManualClock, off_by_s: int) -> Iterator[WorkingStore]:
        """The store as a process with a wrong clock uses it."""
        opened = open_working_store(postgres_store_url, clock, server_time=True)
        clock.wall = server_now(opened) + timedelta(seconds=off_by_s)
        yield opened
        opened.close()

    def test_a_job_starts_at_its_time(
        self, store: WorkingStore, make_job: MakeJob, claim_request: MakeRequest, clock: ManualClock
    ) -> None:
        """Neither the submitter nor the worker starts it early or late."""
        start = server_now(store) + timedelta(seconds=5)
        (later,) = store.submit([make_job(constraints={"not_before": start})])
        (past,) = store.submit([make_job(constraints={"not_before": start - timedelta(seconds=10)})])
        assert (later.status, past.status) == (JobStatus.PENDING, JobStatus.QUEUED)
        store.release_due()
        assert [claim.job_id for claim in store.claim(claim_request(limit=5))] == [past.job_id]

        clock.pass_time(6)
        store.release_due()
        assert [claim.job_id for claim in store.claim(claim_request(limit=5))] == [later.job_id]

    def test_a_deadline_neither_comes_early_nor_late(
        self, store: WorkingStore, make_job: MakeJob, claim_request: MakeRequest, clock: ManualClock
    ) -> None:
        """At submit, while the job waits, and in the time that its attempt gets, on both paths of claim."""
        deadline = server_now(store) + timedelta(seconds=8)
        store.submit([make_job(constraints={"deadline": deadline}) for _ in range(3)])
        with pytest.raises(InvalidJob, match=r"deadline: .* has passed"):
            store.submit([make_job(constraints={"deadline": deadline - timedelta(seconds=10)})])
        store.release_due()

        by_statement = store.claim(claim_request())
        by_general_path = store.database.run(general.claim, claim_request())
        for claim in (*by_statement, *by_general_path):
            assert claim.remaining_s is not None
            # the manual clock stands still meanwhile
            assert 7 < claim.remaining_s < 8.5

        clock.pass_time(9)
        assert store.claim(claim_request()) == []
        assert [job.status for job in store.list_jobs()] == [
            JobStatus.TIMEOUT,
            JobStatus.RUNNING,
            JobStatus.RUNNING,
        ]

    def test_what_is_recorded_has_the_server_s_time(
        self, store: WorkingStore, make_job: MakeJob, claim_request: MakeRequest
    ) -> None:
        """Submission, events and the end of a job, with its microseconds."""
        before = server_now(store)
        (submitted,) = store.submit([make_job()])
        (claim,) = store.claim(claim_request())
        store.finish(claim, Outcome.succeeded())
        after = server_now(store)

        job = store.get(submitted.job_id)
        slack = timedelta(seconds=1)
        for at in (job.created_at, job.completed_at, *(event.at for event in store.events(job.id))):
            assert at is not None
            assert before - slack <= at <= after + slack

    def test_a_checkpoint_expires_by_the_server_s_time(
        self, store: WorkingStore, make_job: MakeJob, claim_request: MakeRequest
    ) -> None:
        """As long after its save as its time to live."""
        store.submit([make_job()])
        (claim,) = store.claim(claim_request())
        save = intent(1, 1, IntentKind.SAVE_STATE)

        async def plan(journal: Journal) -> JournalSnapshot:
            await journal.begin_run(run_record(1))
            await journal.plan_checkpoint(CheckpointRecord(name="a", step=1, generation=1), save, ttl_s=60)
            return await journal.load()

        before = server_now(store)
        with_journal(store, claim, plan)
        after = server_now(store)

        [saved] = store.checkpoints(claim.job_id)
        slack = timedelta(seconds=1)
        assert saved.created_at is not None
        assert before - slack <= saved.created_at <= after + slack
        assert saved.expires_at == saved.created_at + timedelta(seconds=60)
        assert before - slack <= store.now() <= server_now(store) + slack


def server_now(store: Store) -> datetime:
    """The time of the database server."""
    now: datetime = store.database.read(
        lambda tx: tx.connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    )
    return now.astimezone(UTC)


@pytest.mark.parametrize("general_path", [False, True])
def test_a_job_past_its_deadline_is_never_started(
    store: WorkingStore, make_job: MakeJob, claim_request: MakeRequest, clock: ManualClock, general_path: bool
) -> None:
    """The claim that finds it ends it, before any maintenance."""
    (late, other) = store.submit(
        [make_job(constraints={"deadline": clock.now() + timedelta(seconds=9)}), make_job()]
    )
    clock.pass_time(9)

    request = claim_request(limit=5)
    claims = store.database.run(general.claim, request) if general_path else store.claim(request)

    assert [claim.job_id for claim in claims] == [other.job_id]
    assert store.get(late.job_id).status is JobStatus.TIMEOUT


class ScriptedServer:
    """A server whose clock and latency the test sets."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.ahead = timedelta(0)
        self.latency_s = 0.0
        self.frozen_s = 0.0
        self.readings = 0

    def exec_driver_sql(self, _statement: str) -> "ScriptedServer":
        self.readings += 1
        self.clock.pass_time(self.latency_s)
        self.read = self.clock.now() + self.ahead
        self.clock.pass_time(self.latency_s + self.frozen_s)
        self.frozen_s = 0.0
        return self

    def scalar_one(self) -> datetime:
        return self.read


@pytest.fixture
def server(clock: ManualClock) -> ScriptedServer:
    """A scripted server."""
    return ScriptedServer(clock)


def time_of(database_clock: DatabaseClock, server: ScriptedServer) -> datetime:
    """The time by a clock that reads the scripted server."""
    return database_clock.now(cast("Connection", server))


def test_a_reading_holds_for_a_while(clock: ManualClock, server: ScriptedServer) -> None:
    """The monotonic clock continues it; the wall clock does not matter. Then the server is asked again."""
    database_clock = DatabaseClock(clock)
    server.ahead = timedelta(hours=2)
    begin = clock.now()
    assert time_of(database_clock, server) == begin + server.ahead
    clock.step_wall(-7200)
    clock.pass_time(REFRESH_S)
    assert time_of(database_clock, server) == begin + timedelta(hours=2, seconds=REFRESH_S)
    assert server.readings == 1
    clock.pass_time(0.1)
    time_of(database_clock, server)
    assert server.readings == 2


def test_a_step_of_the_server_s_clock_is_followed(clock: ManualClock, server: ScriptedServer) -> None:
    """By the next reading."""
    database_clock = DatabaseClock(clock)
    time_of(database_clock, server)
    server.ahead = timedelta(seconds=30)
    clock.pass_time(REFRESH_S + 1)
    assert time_of(database_clock, server) == clock.now() + server.ahead


def test_a_slow_reading_does_not_move_the_time(clock: ManualClock, server: ScriptedServer) -> None:
    """A reading is only as precise as its round trip is short; a more precise one that agrees is kept."""
    database_clock = DatabaseClock(clock)
    server.latency_s = 0.001
    time_of(database_clock, server)
    server.latency_s, server.ahead = 0.5, timedelta(seconds=0.4)
    clock.pass_time(REFRESH_S + 1)
    assert time_of(database_clock, server) == clock.now()


def test_a_reading_of_a_frozen_process_is_repeated(clock: ManualClock, server: ScriptedServer) -> None:
    """One that was stopped while it waited for the answer does not know by half of that time how late it is."""
    database_clock = DatabaseClock(clock)
    server.frozen_s = 20.0

    assert time_of(database_clock, server) == clock.now()


def test_a_server_that_is_always_slow_is_not_asked_for_ever(clock: ManualClock, server: ScriptedServer) -> None:
    """The most precise of a few readings counts."""
    server.latency_s = MAX_ERROR_S + 0.1

    assert time_of(DatabaseClock(clock), server) == clock.now()
    assert server.readings == MAX_READINGS
