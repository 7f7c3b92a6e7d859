"""Why the jobs of a long backlog wait is recorded in bounded pieces, within seconds."""

from collections.abc import Iterator

import pytest
from sqlalchemy import select
from sqlalchemy.event import listen

from nsai_work.job import Job, Priority
from nsai_work.lifecycle import JobStatus
from nsai_work.store import JobFilter, Outcome
from nsai_work.store.schema import jobs
from nsai_work.store.wait_reasons import recorder
from nsai_work.store.wait_reasons.recorder import MAX_RECORDED, FrontRecorder
from tests.integration.store.waiting_queue import BACKENDS, Queue, recorded
from tests.working_store import WorkingStore


def test_a_job_in_a_backlog_knows_how_many_are_before_it(queue: Queue) -> None:
    """That others are before it is on record, once; the number, which changes, is counted where it is shown."""
    queue.worker()
    backlog = [queue.make_job() for _ in range(30)]
    queue.store.submit(backlog)
    queue.sweep_for(3)

    assert queue.store.get(backlog[1].id).wait_reason == "1 job is before it"
    assert queue.store.get(backlog[29].id).wait_reason == "29 jobs are before it"
    assert queue.store.list_jobs()[0].wait_reason == "other jobs are before it"
    assert [recorded(queue, job) for job in backlog[:3]] == [
        "waits for a free worker",
        "other jobs are before it",
        "other jobs are before it",
    ]


def test_every_job_of_a_backlog_has_its_reason_within_five_seconds(queue: Queue) -> None:
    """As a column and as one event; once it is at the front, the reason is that of the front."""
    queue.worker()
    backlog = [queue.make_job(priority=name) for name in Priority for _ in range(30)]
    queue.store.submit(backlog)
    queue.sweep_for(5)
    recorded_at_once = [recorded(queue, job) for job in backlog]
    reasons = [sum("reason" in event.data for event in queue.store.events(job.id)) for job in backlog]
    queue.store.set_tenant_quota("default", 30)
    queue.store.claim(queue.claim_request(limit=30, backends=BACKENDS))
    queue.sweep_for(1)

    assert None not in recorded_at_once
    assert reasons == [1] * len(backlog)
    fronts = [jobs_of[30 - left] for jobs_of, left in _left_of(queue, backlog) if left]
    assert {recorded(queue, job) for job in fronts} == {"quota of tenant default is used up (30 of 30 running)"}


@pytest.mark.parametrize("together", [False, True], ids=["one_by_one", "together"])
def test_a_job_that_is_submitted_behind_others_says_so_at_once(queue: Queue, together: bool) -> None:
    """In its column and its first event, without a sweep; the first of each lane says it later."""
    backlog = [queue.make_job(tenant_id=f"t{number % 2}") for number in range(40)]
    for part in [backlog] if together else [[job] for job in backlog]:
        queue.store.submit(part)

    behind = [None] * 2 + ["other jobs are before it"] * 38
    assert [recorded(queue, job) for job in backlog] == behind
    events = [queue.store.events(job.id) for job in backlog]
    assert [[event.data.get("reason") for event in of_job] for of_job in events] == [[reason] for reason in behind]
    queue.worker()
    queue.store.claim(queue.claim_request(limit=100, backends=BACKENDS))
    assert {recorded(queue, job) for job in backlog} == {None}


def test_dependents_that_are_queued_behind_each_other_say_so_at_once(queue: Queue) -> None:
    """With the transition; as the job of another lane does not, it is the first of its own."""
    queue.worker()
    first = queue.make_job()
    queue.store.submit([first])
    (claim,) = queue.store.claim(queue.claim_request())
    needs = {"depends_on": [first.id]}
    dependents = [queue.submit(constraints=needs, priority=name) for name in ("batch", "batch", "offline", "batch")]
    queue.store.finish(claim, Outcome.succeeded())

    behind = "other jobs are before it"
    assert [recorded(queue, job) for job in dependents] == [None, behind, None, behind]
    last = [queue.store.events(job.id)[-1] for job in dependents]
    assert [(event.name, event.data.get("reason")) for event in last] == [
        ("job.queued", reason) for reason in (None, behind, None, behind)
    ]


def _left_of(queue: Queue, backlog: list[Job]) -> Iterator[tuple[list[Job], int]]:
    """The jobs of each priority, and the number of them that are queued."""
    queued = {job.id for job in queue.store.list_jobs(JobFilter(status=JobStatus.QUEUED), limit=200)}
    for priority in Priority:
        of_priority = [job for job in backlog if job.priority is priority]
        yield of_priority, sum(job.id in queued for job in of_priority)


def test_a_sweep_records_a_bounded_number(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next sweeps record the rest."""
    monkeypatch.setattr(recorder, "MAX_TRANSACTIONS", 1)
    count = MAX_RECORDED + 5
    queue.store.submit(_in_groups(queue, count))

    def number_recorded() -> int:
        statement = select(jobs.c.seq).where(jobs.c.wait_reason.is_not(None))
        return len(queue.store.database.read(lambda tx: tx.connection.execute(statement).all()))

    queue.sweep_for(2)
    assert number_recorded() == MAX_RECORDED
    queue.sweep_for(1)
    assert number_recorded() == count


def test_the_changed_reasons_of_many_front_jobs_are_recorded_in_turn(queue: Queue) -> None:
    """Also beyond the number that one transaction examines."""
    fronts = _in_groups(queue, 5)
    queue.store.submit(fronts)
    queue.sweep_for(3)
    assert {recorded(queue, job) for job in fronts} == {"no worker is alive"}

    queue.worker()
    changed, recording = [], FrontRecorder()
    for _ in range(4):
        queue.store.database.run(recording.record, 2)
        changed.append(sum(recorded(queue, job) == "waits for a free worker" for job in fronts))

    assert changed == [2, 4, 5, 5]


def _in_groups(queue: Queue, count: int) -> list[Job]:
    """Jobs of as many lanes."""
    groups = [{"concurrency_group": f"g{number}", "max_concurrent_in_group": 1} for number in range(count)]
    return [queue.make_job(constraints=constraints) for constraints in groups]


def test_a_long_backlog_is_recorded_in_bounded_pieces(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each transaction, and each sweep, a number of jobs, the oldest first; the next goes on behind them."""
    monkeypatch.setattr(recorder, "MAX_BEHIND", 4)
    monkeypatch.setattr(recorder, "MAX_TRANSACTIONS", 3)
    queue.worker()
    backlog = [queue.make_job() for _ in range(30)]
    queue.store.submit(backlog)
    for job in backlog:
        queue.store.request_cancel(job.id)
        queue.store.retry(job.id)
    assert {recorded(queue, job) for job in backlog} == {None}
    counts = []
    for seconds in (2, 1, 1):
        queue.sweep_for(seconds)
        reasons = [recorded(queue, job) for job in backlog]
        counts.append(30 - reasons.count(None))
        assert None not in reasons[: counts[-1]]

    # the front, and twelve behind it in each sweep
    assert counts == [13, 25, 30]
    waiting = [[event.name for event in queue.store.events(job.id)].count("job.waiting") for job in backlog]
    assert waiting == [1] * 30


@pytest.mark.postgres
def test_the_rest_of_a_backlog_is_found_by_its_index(shared_postgres_store: WorkingStore) -> None:
    """What has its reason is not read again: a sweep costs what it records."""
    database, calls = shared_postgres_store.database, []
    listen(database.engine(), "before_cursor_execute", lambda *call: calls.append(call[2:4]))
    database.run(recorder.record_behind, 7)
    (found,) = (call for call in calls if "LIMIT" in call[0] and "queued_at" in call[0])
    with database.transaction() as tx:
        # so few rows are read whole otherwise
        tx.connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        plan = tx.connection.exec_driver_sql(f"EXPLAIN {found[0]}", found[1]).scalars().all()

    assert any("using nsai_jobs_unexplained" in step for step in plan), plan
