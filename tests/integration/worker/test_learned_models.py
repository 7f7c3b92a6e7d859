"""Runs that learn from what another job has made: a reference, a teacher, the teacher of a file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.tinkex_dev.server import DEV_KEY, DevServer
from nsai_work import Job, JobHandle, submit
from nsai_work.errors import InvalidJob
from nsai_work.testing import isolated_store, run_jobs

TRAIN: dict[str, Any] = {"base_model": "tiny-lm", "batch_size": 2, "max_steps": 4, "lora": {"rank": 4}}


def training(**fields: Any) -> Job:
    """A small training job."""
    return Job.parse({"kind": "training_step", "backend": "fake", "payload": {**TRAIN, **fields}})


@pytest.fixture
def trained(tmp_path: Path) -> Iterator[JobHandle]:
    """A training job that has ended, with checkpoints of the steps 2 and 4."""
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": f"Text {n}"}) + "\n" for n in range(4)))
    with isolated_store(tmp_path / "store"):
        handle = submit(training(data={"path": str(data)}, checkpoint_policy={"save_every": 2}))
        run_jobs()
        yield handle


@pytest.mark.parametrize("field", ["reference", "teacher", "sources"])
def test_a_run_learns_from_what_another_has_made(trained: JobHandle, tmp_path: Path, field: str) -> None:
    """Its reference, its teacher, or the teacher of a file is a checkpoint of another job: pinned, and renamed with
    the jobs of a file."""
    pairs, text = tmp_path / "pairs.jsonl", {"path": str(tmp_path / "data.jsonl")}
    pairs.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n")
    early = {"job": trained.id, "checkpoint": 2}
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "reference": ("payload.reference", {"method": "dpo", "data": {"path": str(pairs)}, "reference": early}),
        "teacher": ("payload.teacher", {"method": "distill", "data": text, "teacher": early, "top_k": 2}),
        "sources": (
            "payload.data.sources[0].teacher",
            {"method": "distill", "data": {"sources": [{**text, "teacher": early}]}, "top_k": 2},
        ),
    }
    place, payload = cases[field]
    handle = submit(training(**payload))
    assert handle.job().constraints.depends_on == (trained.id,)
    run_jobs()

    assert handle.result(timeout=0)["steps"] == 4
    [read] = [event.data["fields"] for event in handle.events() if event.name == "job.read"]
    assert (read[place]["job"], read[place]["step"]) == (trained.id, 2)
    for wrong, message in ((trained.id[:-4] + "0000", "there is no job"), (handle.id, r"rank|checkpoint")):
        bad = json.loads(json.dumps(payload).replace(trained.id, wrong).replace(": 2}", ": 3}"))
        with pytest.raises(InvalidJob, match=message) as caught:
            submit(training(**bad))
        assert place in caught.value.message


def test_a_state_is_saved_for_sampling_where_a_service_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint before the last has no sampling weights of its own: once, for all attempts."""
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": f"Text {n}"}) + "\n" for n in range(4)))
    with DevServer(tmp_path / "server") as server, isolated_store(tmp_path / "store"):
        monkeypatch.setenv("TINKER_BASE_URL", server.url)
        monkeypatch.setenv("TINKER_API_KEY", DEV_KEY)
        common: dict[str, Any] = {"data": {"path": str(data)}, "checkpoint_policy": {"save_every": 2}}
        made = submit(training(**common).model_copy(update={"backend": "tinkex"}))
        run_jobs()
        fields = {"method": "distill", "teacher": {"job": made.id, "checkpoint": 2}, "top_k": 2}
        handle = submit(training(**common, **fields).model_copy(update={"backend": "tinkex"}))
        run_jobs()
        result = handle.result(timeout=0)
        [read] = [event.data["fields"] for event in handle.events() if event.name == "job.read"]
    assert result["steps"] == 4
    assert read["payload.teacher"]["step"] == 2
    assert "/sampler_weights/" in read["payload.teacher"]["path"]
