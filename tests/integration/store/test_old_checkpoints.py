"""Checkpoints of old jobs are deleted in two phases, and a deletion that was interrupted is found again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nsai_work.client.checkpoints.checkpoint_use import find_use
from nsai_work.client.file_shipper import submit_with_files
from nsai_work.client.local_files import LocalFiles
from nsai_work.inference import pin_prompts
from nsai_work.job import Job
from nsai_work.payloads import DataSource
from nsai_work.settings import Settings
from nsai_work.store import ClaimRequest, Outcome, Store
from nsai_work.store.engine.bulk_write import insert_new
from nsai_work.store.schema import checkpoints, runs

MakeJob = Callable[..., Job]
MakeRequest = Callable[..., ClaimRequest]


def files_of(store: Store, folder: Path) -> LocalFiles:
    """The files of the jobs of a store whose blobs are in a folder."""
    pytest.importorskip("fsspec")
    return LocalFiles(store, Settings(home=folder, blobs_url=f"file://{folder}/far-blobs"))


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

    assert [item.backend for item in store.old_checkpoints(before)] == ["fake"] * 2
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

    assert store.old_checkpoints(before) == []
    assert store.begin_checkpoint_deletion(before, limit=9) == []


def test_what_an_unfinished_job_names_is_kept(
    store: Store, make_job: MakeJob, claim_request: MakeRequest, clock: Any, tmp_path: Path
) -> None:
    """In its model, a setting of its recovery, an argument of a command, or a prompt of its file; not by an ended
    job."""
    store.submit([make_job()])
    end_with_checkpoints(store, claim_request(), clock)
    clock.pass_time(60)
    before = clock.now()
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "Hi", "options": {"model": "fake://c0"}}\n')
    prompt = {"messages": [{"role": "user", "content": "Hi"}], "options": {"model": "fake://c0"}}
    training = {"base_model": "tiny-lm", "data": {"path": "d"}, "max_steps": 1}
    batch = {"input": {"path": str(tmp_path / "prompts.jsonl")}, "output": str(tmp_path / "out.jsonl")}
    named: list[dict[str, Any]] = [
        {"kind": "inference", "payload": {"prompt": prompt}},
        {"kind": "inference", "payload": batch},
        {"kind": "training_step", "payload": training | {"recovery": {"checkpoint_strategy": "fake://c0"}}},
        {"kind": "tool_call", "payload": {"command": "x", "arguments": {"from": ["fake://c0"]}}},
    ]
    for fields in named:
        job = make_job(**fields)
        store.submit([job])

        use = find_use(files_of(store, tmp_path), {"fake://c0"})
        assert (use.jobs, use.unread) == ({"fake://c0": job.id}, [])
        kept = store.begin_checkpoint_deletion(before, limit=9, keep=use.jobs)
        assert [item.paths for item in kept] == [()]
        assert store.prune(before) == 0
        store.request_cancel(job.id)

    assert find_use(files_of(store, tmp_path), {"fake://c0"}).jobs == {}
    assert [item.paths for item in store.begin_checkpoint_deletion(before, limit=9)] == [("fake://c0",), ()]


def test_prompts_that_cannot_be_read_are_said_to_be(store: Store, make_job: MakeJob, tmp_path: Path) -> None:
    """The job is named: a worker on another machine may have its file."""
    payload = {"input": {"path": str(tmp_path / "missing.jsonl")}, "output": str(tmp_path / "out.jsonl")}
    job = make_job(kind="inference", payload=payload)
    store.submit([job])

    assert find_use(files_of(store, tmp_path), {"fake://c0"}).unread == [job.id]


def test_prompts_are_read_where_they_are_kept(store: Store, make_job: MakeJob, tmp_path: Path) -> None:
    """The file that was submitted may be gone."""
    prompts, files = tmp_path / "prompts.jsonl", files_of(store, tmp_path)
    prompts.write_text('{"prompt": "Hi", "options": {"model": "fake://c0"}}\n')
    source = pin_prompts(DataSource(path=str(prompts)), require_model=True)
    job = make_job(kind="inference", payload={"input": source.model_dump(mode="json")})
    submit_with_files(store, [job], files.settings)
    prompts.unlink()

    use = find_use(files, {"fake://c0"})
    assert (use.jobs, use.unread) == ({"fake://c0": job.id}, [])
