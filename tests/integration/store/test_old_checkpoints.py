"""Checkpoints of old jobs are deleted in two phases, and a deletion that was interrupted is found again."""

from collections.abc import Callable
from typing import Any

from nsai_work.job import Job
from nsai_work.store import ClaimRequest, Outcome, Store
from nsai_work.store.engine.bulk_write import insert_new
from nsai_work.store.schema import checkpoints, runs

MakeJob = Callable[..., Job]
MakeRequest = Callable[..., ClaimRequest]


def end_with_checkpoints(store: Store, request: ClaimRequest, clock: Any, *, promoted: bool = False) -> str:
    """Claim a job and finish it with a committed, a pending and a deleted checkpoint."""
    (claim,) = store.claim(request)
    run = {"job_seq": claim.seq, "generation": 1, "ref": {"backend": "fake"}, "from_step": 0, "first_seq_id": 1}
    store.database.run(insert_new, runs, [{**run, "resume": "fresh", "started_at": clock.now()}])
    rows = [
        {
            "job_seq": claim.seq,
            "name": f"c{step}",
            "step": step,
            "generation": 1,
            "status": status,
            "path": path,
            "sampler_path": None,
            "created_at": clock.now(),
            "promoted": promoted,
            "final": False,
        }
        for step, (status, path) in enumerate(
            [("committed", "fake://c0"), ("pending", None), ("deleted", "fake://c2")]
        )
    ]
    store.database.run(insert_new, checkpoints, rows)
    store.finish(claim, Outcome.succeeded())
    return str(claim.job_id)


def test_a_started_deletion_is_found_again_until_it_ends(
    store: Store, make_job: MakeJob, claim_request: MakeRequest, clock: Any
) -> None:
    """The job is pruned only after the last of its checkpoints; each change is an event."""
    store.submit([make_job()])
    job_id = end_with_checkpoints(store, claim_request(), clock)
    clock.pass_time(60)
    before = clock.now()

    assert store.count_old_checkpoints(before) == {"fake": 2}
    (first,) = store.begin_checkpoint_deletion(before, limit=1)
    both = store.begin_checkpoint_deletion(before, limit=9)
    assert (both[0], [item.paths for item in both]) == (first, [("fake://c0",), ()])
    assert store.prune(before) == 0
    for checkpoint in both:
        store.end_checkpoint_deletion(checkpoint)
        store.end_checkpoint_deletion(checkpoint)

    names = [event.name for event in store.events(job_id) if event.name.startswith("checkpoint.")]
    assert names == ["checkpoint.deleting"] * 2 + ["checkpoint.deleted"] * 2
    assert store.begin_checkpoint_deletion(before, limit=9) == []
    assert store.prune(before) == 1


def test_young_needed_and_promoted_ones_are_left_alone(
    store: Store, make_job: MakeJob, claim_request: MakeRequest, clock: Any
) -> None:
    """A job that ended recently, one that another waits for, and a promoted checkpoint."""
    needed = make_job()
    slow = make_job()
    store.submit([needed, slow])
    store.submit([make_job(constraints={"depends_on": [needed.id, slow.id]})])
    end_with_checkpoints(store, claim_request(job_ids=[needed.id]), clock)
    promoted = make_job()
    store.submit([promoted])
    end_with_checkpoints(store, claim_request(job_ids=[promoted.id]), clock, promoted=True)
    clock.pass_time(60)
    before = clock.now()
    young = make_job()
    store.submit([young])
    end_with_checkpoints(store, claim_request(job_ids=[young.id]), clock)

    assert store.count_old_checkpoints(before) == {}
    assert store.begin_checkpoint_deletion(before, limit=9) == []
