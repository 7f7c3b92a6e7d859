"""A job on a service as others write them: JSON only, no forward route, no listings, paths of its own form."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.tinkex_dev.server import DevServer
from nsai_work import Job, JobHandle, submit
from tests.rig import Rig, until

STEPS, SAVE_EVERY = 20, 5
MISSING = frozenset({"forward", "training_runs", "checkpoints", "sessions", "client", "weights_info"})


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """Workers and this process use the foreign service."""
    options = {
        "protobuf": False,
        "protobuf_refusal": 500,
        "opaque_paths": True,
        "work_ms": 10,
        "missing_routes": frozenset(
            {"forward", "training_runs", "checkpoints", "sessions", "client", "weights_info"}
        ),
    }
    made = Rig.embedded(tmp_path)
    with DevServer(tmp_path / "service", **options) as server:
        for name, value in {"TINKER_BASE_URL": server.url, "TINKER_API_KEY": "tml-test"}.items():
            made.variables[name] = value
            monkeypatch.setenv(name, value)
        yield made
        made.close()


def job(data: Path) -> Job:
    """The same job each time."""
    payload = {
        "base_model": "tiny-lm",
        "data": {"path": str(data)},
        "lora": {"rank": 2, "seed": 0},
        "max_steps": STEPS,
        "checkpoint_policy": {"strategy": "steps", "save_every": SAVE_EVERY, "keep_last": 2},
    }
    return Job(kind="training_step", backend="tinkex", payload=payload)


def losses(handle: JobHandle) -> list[float]:
    """The losses that count, in order."""
    return [step.loss for step in handle.steps()]


def _is_saved(handle: JobHandle) -> bool:
    return any(save.status == "committed" for save in handle.checkpoints())


def test_a_killed_job_resumes_on_a_foreign_service(rig: Rig, tmp_path: Path) -> None:
    """With the losses of a job left alone; an old save that cannot be deleted is named by an event."""
    data = tmp_path / "talks.jsonl"
    talk = [{"role": "user", "content": "What is 2 and 2?"}, {"role": "assistant", "content": "It is 4."}]
    data.write_text(json.dumps({"messages": talk}) + "\n")
    killed = submit(job(data), rig.settings())
    worker = rig.start_worker()
    until(lambda: len(losses(killed)) >= SAVE_EVERY + 3 and _is_saved(killed), "steps after a save", worker.text)
    worker.kill()
    seen = len(losses(killed))

    rig.start_worker()
    result = killed.result(timeout=120)
    alone = submit(job(data), rig.settings())
    alone.result(timeout=120)

    assert SAVE_EVERY <= seen < STEPS
    assert losses(killed) == losses(alone)
    assert len(losses(killed)) == STEPS
    assert result["resume"] != "cold"
    assert all(save.path.startswith("/state/checkpoints/") for save in killed.checkpoints() if save.path)
    failed = [event.data["reason"] for event in killed.events() if event.name == "checkpoint.delete_failed"]
    assert failed
    assert "tinker://RUN/weights/NAME" in failed[0]
