"""Pruning: old jobs are deleted completely, except those that are still needed."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select

from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus
from nsai_work.store import ClaimRequest, JobFilter, Outcome, Store
from nsai_work.store.engine.bulk_write import insert_new
from nsai_work.store.maintenance.workers import MAX_SILENCE, register_worker, worker_seen
from nsai_work.store.records import OutcomeKind
from nsai_work.store.schema import checkpoints, metadata
from nsai_work.store.worker_id import WorkerId

MakeJob = Callable[..., Job]
MakeRequest = Callable[..., ClaimRequest]


def end_one(store: Store, request: ClaimRequest, status: JobStatus = JobStatus.SUCCEEDED) -> str:
    """Claim a job and finish it."""
    (claim,) = store.claim(request)
    store.finish(claim, Outcome(OutcomeKind(status)))
    return claim.job_id


def rows_left(store: Store) -> dict[str, int]:
    """The number of rows of each table with rows of jobs."""
    about_jobs = [table for table in metadata.tables.values() if "job_seq" in table.c or table.name == "nsai_jobs"]
    return store.database.read(
        lambda tx: {
            table.name: tx.connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in about_jobs
        }
    )


def ids(store: Store) -> set[str]:
    return {job.id for job in store.list_jobs(JobFilter())}


def test_an_old_job_is_deleted_with_all_its_rows(
    store: Store, make_job: MakeJob, claim_request: MakeRequest, clock: Any
) -> None:
    """No table keeps a row of it; newer and unfinished jobs are complete."""
    store.submit([make_job(tags=["a", "b"])])
    end_one(store, claim_request())
    clock.pass_time(86_400)
    before = clock.now()
    young, waiting = make_job(), make_job()
    store.submit([young, waiting])
    end_one(store, claim_request())

    assert store.count_old(before) == (1, 0)
    assert store.prune(before) == 1
    assert store.prune(before) == 0

    assert ids(store) == {young.id, waiting.id}
    left = rows_left(store)
    assert left["nsai_job_tags"] == 0
    assert left["nsai_jobs"] == left["nsai_job_specs"] == 2
    assert left["nsai_attempts"] == 1
    assert {event.job_id for event in store.events_all()} == {young.id, waiting.id}


def test_a_dependency_of_a_pending_job_is_kept(
    store: Store, make_job: MakeJob, claim_request: MakeRequest, clock: Any
) -> None:
    """The dependent is settled by its status."""
    first = make_job()
    slow = make_job()
    store.submit([first, slow])
    store.submit([make_job(constraints={"depends_on": [first.id, slow.id]})])
    end_one(store, claim_request(job_ids=[first.id]))
    clock.pass_time(60)

    assert store.prune(clock.now()) == 0

    end_one(store, claim_request(job_ids=[slow.id]))
    assert end_one(store, claim_request()) not in (first.id, slow.id)
    clock.pass_time(60)
    assert store.prune(clock.now()) == 3


def test_a_dependency_is_kept_until_its_dependents_have_ended(
    store: Store, make_job: MakeJob, claim_request: MakeRequest, clock: Any
) -> None:
    """They may read what it has made, while they wait and while they run."""
    first = make_job()
    store.submit([first])
    store.submit([make_job(constraints={"depends_on": [first.id]})])
    end_one(store, claim_request(job_ids=[first.id]))
    clock.pass_time(60)
    assert store.prune(clock.now()) == 0

    [claim] = store.claim(claim_request())
    assert store.prune(clock.now()) == 0
    store.finish(claim, Outcome.succeeded())
    clock.pass_time(60)
    assert store.prune(clock.now()) == 2


def test_a_job_with_checkpoints_is_kept_unless_they_are_forgotten(
    store: Store, make_job: MakeJob, claim_request: MakeRequest, clock: Any
) -> None:
    """They cost money at the service, and only the job records whose they are."""
    store.submit([make_job(), make_job()])
    claims = store.claim(claim_request(limit=2))
    for claim, status in zip(claims, ("committed", "deleted"), strict=True):
        row = {
            "job_seq": claim.seq,
            "name": "c",
            "step": 1,
            "generation": 1,
            "status": status,
            "created_at": clock.now(),
        }
        store.database.run(insert_new, checkpoints, [{**row, "promoted": False, "final": False}])
        store.finish(claim, Outcome.succeeded())
    clock.pass_time(60)

    assert store.count_old(clock.now()) == (2, 1)
    assert store.prune(clock.now()) == 1
    assert ids(store) == {claims[0].job_id}
    assert store.prune(clock.now(), forget_checkpoints=True) == 1
    assert ids(store) == set()


def test_a_batch_is_limited(store: Store, make_job: MakeJob, claim_request: MakeRequest, clock: Any) -> None:
    """The oldest jobs first."""
    store.submit([make_job() for _ in range(5)])
    order = [end_one(store, claim_request()) for _ in range(5)]
    before = clock.now() + timedelta(seconds=1)

    assert store.prune(before, limit=2) == 2

    assert ids(store) == set(order[2:])


def test_old_workers_are_forgotten(store: Store, make_job: MakeJob, claim_request: MakeRequest, clock: Any) -> None:
    """Each process that has run a job has left a row. Those that are alive, or whose job another has not taken over
    yet, stay, however old they are."""
    stopped, killed, owner, alive = (WorkerId("host", "boot", "space", pid, 1, "nonce") for pid in range(4))
    store.submit([make_job()])
    for worker in (stopped, killed, owner, alive):
        store.database.run(register_worker, worker, version="1", backends={})
    store.claim(claim_request(str(owner)))
    store.database.run(worker_seen, str(stopped), stopped=True)
    clock.pass_time(MAX_SILENCE.total_seconds() - 1)
    store.database.run(worker_seen, str(alive))
    clock.pass_time(2)

    store.prune(clock.now() - MAX_SILENCE)
    assert {row.pid for row in store.workers()} == {2, 3}
    clock.pass_time(1)
    store.prune(clock.now())

    assert {row.pid for row in store.workers()} == {2, 3}
