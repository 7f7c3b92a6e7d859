"""What the recovery block of a job does, from submit to the result, against the dev server."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from backends.tinkex_dev import faults
from backends.tinkex_dev.server import DevServer
from nsai_work import Job, JobHandle, Settings, submit
from nsai_work.client.connections import close_connections, job_store
from nsai_work.lifecycle import JobStatus
from nsai_work.worker import run_inline
from tests.integration.training.harness import write_data

STEPS = 6
Run: TypeAlias = Callable[..., JobHandle]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DevServer]:
    """A server of its own, found by the environment."""
    with DevServer(tmp_path / "server", seed=0, hold_s=2.0) as server:
        monkeypatch.setenv("TINKER_BASE_URL", server.url)
        monkeypatch.setenv("TINKER_API_KEY", "tml-dev")
        yield server


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """An embedded store."""
    yield Settings(home=tmp_path / "home", sweep_interval_s=0.1, poll_interval_s=0.1)
    close_connections()


@pytest.fixture
def run(tmp_path: Path, settings: Settings, server: DevServer) -> Run:
    """Submits a job with a recovery block and runs it here."""

    def submit_and_run(**payload: Any) -> JobHandle:
        fields = {
            "base_model": "tiny-lm",
            "data": {"path": str(write_data(tmp_path))},
            "lora": {"rank": 4},
            "batch_size": 4,
            "max_steps": STEPS,
            "pipeline_depth": 1,
            "optimizer": {"learning_rate": 0.02},
            "checkpoint_policy": {"save_every": 2},
        }
        policy = {"max_attempts": 3, "initial_delay_ms": 0}
        job = {"kind": "training_step", "payload": fields | payload, "retry_policy": policy}
        handle = submit(Job.parse(job), settings)
        run_inline([handle.id], settings)
        return handle

    return submit_and_run


_undisturbed: list[float] = []


@pytest.fixture
def alone(run: Run) -> list[float]:
    """The losses of an undisturbed job. Servers with equal seeds train to the same bits, so one job is enough."""
    if not _undisturbed:
        _undisturbed.extend(losses(run()))
    return _undisturbed


def losses(handle: JobHandle) -> list[float]:
    return [step.loss for step in handle.steps()]


def attempts(handle: JobHandle, settings: Settings) -> int:
    return len(job_store(settings).attempts(handle.id))


@pytest.mark.parametrize(
    "block",
    [None, {}, {"max_attempts": 5}, {"on_cold_optimizer": "stop"}, {"on_repeated_corruption": "skip_batch"}],
    ids=["none", "empty", "max_attempts", "on_cold_optimizer", "on_repeated_corruption"],
)
def test_a_corrupted_run_is_recovered_whatever_the_block_names(
    run: Run, alone: list[float], server: DevServer, settings: Settings, block: dict[str, Any] | None
) -> None:
    server.fault(faults.CorruptRun(after_optim_steps=3, mode=faults.CorruptionMode.NAN))

    handle = run() if block is None else run(recovery=block)

    assert handle.status() is JobStatus.SUCCEEDED, handle.job().error
    assert handle.result(timeout=1)["recoveries"] == 1
    assert attempts(handle, settings) == 1
    assert losses(handle) == alone


@pytest.mark.parametrize(("block", "stops"), [({"on_cold_optimizer": "stop"}, True), ({}, False)])
def test_on_cold_optimizer_stop_stops(run: Run, server: DevServer, block: dict[str, Any], stops: bool) -> None:
    """The line that the page on recovery recommends; two repeated steps show that the optimizer is cold."""
    server.fault(faults.CorruptRun(after_optim_steps=5, mode=faults.CorruptionMode.NAN))
    server.fault(faults.ColdOptimizer())

    handle = run(recovery=block, checkpoint_policy={"save_every": 3})

    error = handle.job().error
    assert (error is not None and error.code == "cold_optimizer") is stops
    assert handle.status() is (JobStatus.FAILED if stops else JobStatus.SUCCEEDED)
    assert [event.name for event in handle.events()].count("resume.cold") == 1


def test_with_recovery_off_a_corrupted_run_costs_one_attempt_and_a_retry_restores(
    run: Run, alone: list[float], server: DevServer, settings: Settings
) -> None:
    server.fault(faults.CorruptRun(after_optim_steps=3, mode=faults.CorruptionMode.NAN))

    handle = run(recovery={"enabled": False})

    error = handle.job().error
    assert handle.status() is JobStatus.FAILED
    assert error is not None
    assert (error.code, error.retryable) == ("run_corrupted", False)
    assert "recovery.enabled is false" in error.message
    assert "nsai-work retry" in error.message
    assert attempts(handle, settings) == 1

    handle.retry()
    run_inline([handle.id], settings)

    assert handle.status() is JobStatus.SUCCEEDED, handle.job().error
    assert losses(handle) == alone
    assert [run["from_step"] for run in handle.result(timeout=1)["lineage"]] == [0, 2]


def test_a_failure_on_record_is_restored_from(
    run: Run, alone: list[float], server: DevServer, settings: Settings
) -> None:
    """The service accepted a step and failed it; asked again, it would fail for ever."""
    server.fault(faults.FailOperation(operation="optim_step", skip=4, detail="no space left on device"))

    handle = run(recovery={"backoff_ms": 0})

    assert handle.status() is JobStatus.SUCCEEDED, handle.job().error
    assert losses(handle) == alone
    assert attempts(handle, settings) == 1
