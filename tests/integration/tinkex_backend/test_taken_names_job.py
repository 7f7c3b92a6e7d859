"""A whole job at a service without listings: a save took effect but was answered 429, and its repeat with 409."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.tinkex_dev import faults
from backends.tinkex_dev.server import DevServer
from nsai_work import Job, JobHandle, submit
from nsai_work.testing import isolated_store, run_jobs

STEPS = 6
LISTINGS = frozenset({"training_runs", "checkpoints"})
SILENT = LISTINGS | {"weights_info"}


@pytest.fixture(autouse=True)
def _store() -> Iterator[None]:
    with isolated_store():
        yield


def trained(folder: Path, monkeypatch: pytest.MonkeyPatch, server: DevServer) -> JobHandle:
    """A job that has ended at this server, with saves at steps 2 and 4 and the final ones."""
    data = folder / "talks.jsonl"
    talk = [{"role": "user", "content": "What is 2 and 2?"}, {"role": "assistant", "content": "It is 4."}]
    data.write_text(json.dumps({"messages": talk}) + "\n")
    monkeypatch.setenv("TINKER_BASE_URL", server.url)
    monkeypatch.setenv("TINKER_API_KEY", "tml-dev")
    payload = {
        "base_model": "tiny-lm",
        "data": {"path": str(data)},
        "lora": {"rank": 2, "seed": 0},
        "max_steps": STEPS,
        "checkpoint_policy": {"strategy": "steps", "save_every": 2, "keep_last": 2},
        "recovery": {"enabled": True, "backoff_ms": 0},
    }
    handle = submit(Job(kind="training_step", backend="tinkex", payload=payload))
    run_jobs()
    return handle


@pytest.mark.parametrize("route", ["save_weights", "save_weights_for_sampler"])
@pytest.mark.parametrize("missing", [LISTINGS, SILENT], ids=["a service without listings", "one that says nothing"])
def test_a_save_whose_name_is_taken_fails_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: frozenset[str], route: str
) -> None:
    """The save is adopted where the service knows its name; else the job is restored and saves under another name.
    The losses are those of an undisturbed job."""
    with DevServer(tmp_path / "alone") as server:
        alone = trained(tmp_path, monkeypatch, server)
    with DevServer(tmp_path / "service", missing_routes=missing, replay=False) as server:
        skip = 1 if route == "save_weights" else 0
        server.fault(faults.RouteFault(route=route, status=429, retry_after_s=0.01, after=True, skip=skip))
        handle = trained(tmp_path, monkeypatch, server)
        assert not server.faults(), "the fault has struck"

    result = handle.result(timeout=0)
    assert [step.loss for step in handle.steps()] == [step.loss for step in alone.steps()]
    assert len(handle.steps()) == STEPS
    incidents = [str(event.data["reason"]) for event in handle.events() if event.name == "training.incident"]
    assert ["exists already" in reason for reason in incidents] == ([True] if missing is SILENT else [])
    assert result["recoveries"] == len(incidents)
