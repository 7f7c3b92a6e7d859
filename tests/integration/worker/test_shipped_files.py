"""A job needs nothing of the submitter's disk: a real worker process, with a home of its own."""

import json
from pathlib import Path

import pytest

from nsai_work import Job, submit_many
from nsai_work.blobs.table import INSIDE
from tests.rig import Rig


def _row(text: str) -> str:
    return (
        json.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}]}) + "\n"
    )


@pytest.mark.parametrize("rig", ["redis"], indirect=True)
@pytest.mark.postgres
@pytest.mark.redis
def test_a_worker_elsewhere_runs_jobs_whose_files_were_deleted(rig: Rig, tmp_path: Path) -> None:
    """Data, held-out data, a mixture, and prompts; the files are read from PostgreSQL."""
    files = [tmp_path / name for name in ("a.jsonl", "b.jsonl", "prompts.jsonl")]
    files[0].write_text(_row("a") * 4)
    files[1].write_text(_row("b") * 4)
    files[2].write_text('{"prompt": "Hi", "options": {"model": "tiny-lm"}}\n')
    one, mixture = {"path": str(files[0])}, {"sources": [{"path": str(files[0])}, {"path": str(files[1])}]}
    training = {"base_model": "tiny-lm", "batch_size": 2, "max_steps": 2}
    payloads = [
        {**training, "data": one, "eval": {"data": {"path": str(files[1])}}},
        {**training, "data": mixture},
        {"input": {"path": str(files[2])}, "output": str(tmp_path / "answers.jsonl")},
    ]
    kinds = ["training_step", "training_step", "inference"]
    jobs = [
        Job.parse({"kind": kind, "backend": "fake", "payload": payload})
        for kind, payload in zip(kinds, payloads, strict=True)
    ]
    handles = submit_many(jobs, rig.settings())
    for file in files:
        file.unlink()

    rig.start_worker(home=tmp_path / "elsewhere")
    results = [handle.result(timeout=120) for handle in handles]

    assert results[2]["succeeded"] == 1
    assert rig.store.blobs.place() == INSIDE
    copies = {path.name for path in (tmp_path / "elsewhere" / "blobs").glob("*/*")}
    assert copies == {file.name for file in files}
