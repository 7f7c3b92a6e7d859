"""Kill anything, lose nothing, do nothing twice: the promise of this project, with real processes and real kills.

Everything that happens is decided by one seed, which is printed. To replay a run:

    NSAI_CHAOS_SEED=12345 pytest -s tests/chaos

The short form kills a few workers on each stage; the long form (``make chaos``) goes on for 200 kills, or for
as many as ``NSAI_CHAOS_KILLS`` says.
"""

import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nsai_work import Job, JobHandle, submit_many
from nsai_work.worker import run_inline
from tests.chaos.stage import (
    Stage,
    Truth,
    service_variables,
    training_job,
    training_service,
    verify,
    write_lessons,
)
from tests.rig import Proxy, Rig

pytestmark = pytest.mark.chaos


def _seed() -> int:
    return int(os.environ.get("NSAI_CHAOS_SEED") or random.SystemRandom().randrange(10**6))


def _undisturbed(rig: Rig, stage: Stage, jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> list[Truth]:
    """Run jobs to their end in this process, before any worker lives."""
    for name, value in rig.variables.items():
        monkeypatch.setenv(name, value)
    handles = submit_many(jobs, rig.settings())
    run_inline([handle.id for handle in handles], rig.settings(lease_ttl_s=60))
    return [_truth(stage, handle) for handle in handles]


def _truth(stage: Stage, handle: JobHandle) -> Truth:
    result = handle.result(timeout=1)
    assert result["recoveries"] == 0
    return Truth([step.loss for step in handle.steps()], stage.server.checkpoint_digest(str(result["checkpoint"])))


def _play(stage: Stage, acts: list[tuple[Callable[[], None], int]], *, until_kills: int, patience_s: float) -> None:
    """Let things happen until enough workers were killed, or all jobs have ended."""
    happenings, weights = [act for act, _ in acts], [weight for _, weight in acts]
    while stage.unfinished() and stage.counts["kills"] < until_kills:
        stage.wait_for_progress(patience_s)
        time.sleep(stage.dice.uniform(0.0, 0.4))
        stage.dice.choices(happenings, weights)[0]()


def _tell(text: str) -> None:
    sys.stderr.write(f"\nchaos: {text}\n")


def _chaos(
    rig_and_broker: tuple[Rig, Proxy | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    jobs: int,
    steps: int,
    kills: int,
    acts: Callable[[Stage], list[tuple[Callable[[], None], int]]],
    service: tuple[str, ...] = (),
) -> None:
    rig, broker = rig_and_broker
    seed = _seed()
    _tell(f"seed {seed}; replay with NSAI_CHAOS_SEED={seed}")
    data = write_lessons(tmp_path)
    with training_service(tmp_path / "service", *service, work_ms=10) as server:
        rig.variables.update(service_variables(server))
        stage = Stage(rig, server, random.Random(seed), broker=broker)
        plan = [training_job(data, steps=steps, seed=number) for number in range(jobs)]
        truths = _undisturbed(rig, stage, plan, monkeypatch)
        stage.open()
        try:
            while stage.counts["kills"] < kills:
                stage.handles = []
                stage.submit([training_job(data, steps=steps, seed=number) for number in range(jobs)])
                _play(stage, acts(stage), until_kills=kills, patience_s=120)
                server.clear_faults()
                while stage.unfinished():
                    stage.wait_for_progress(120)
                for handle, truth in zip(stage.handles, truths, strict=True):
                    verify(stage, handle, truth)
        finally:
            stage.close()
        _tell(f"{dict(stage.counts)}")


def test_killed_workers_leave_no_trace(
    rig_and_broker: tuple[Rig, Proxy | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers killed at random points, wake-ups stale and doubled, brokers cut: every job ends once, with the
    losses and the weights of an undisturbed run, bit for bit."""

    def acts(stage: Stage) -> list[tuple[Callable[[], None], int]]:
        return [
            (stage.kill_one, 10),
            (stage.send_stale_wake_ups, 2),
            (stage.cut_broker, 1),
            (stage.disturb_service, 2),
        ]

    _chaos(rig_and_broker, tmp_path, monkeypatch, jobs=2, steps=24, kills=4, acts=acts)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_two_hundred_kills(
    rig_and_broker: tuple[Rig, Proxy | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The long form: everything that can happen, until 200 workers have been killed on each stage."""

    def acts(stage: Stage) -> list[tuple[Callable[[], None], int]]:
        return [
            (stage.kill_one, 20),
            (stage.kill_successor, 5),
            (stage.freeze_one, 1),
            (stage.ask_one_to_leave, 3),
            (stage.send_stale_wake_ups, 3),
            (stage.cut_broker, 3),
            (stage.disturb_service, 6),
            (stage.corrupt_run, 2),
            (stage.lose_run, 2),
        ]

    kills = int(os.environ.get("NSAI_CHAOS_KILLS") or 200)
    _chaos(rig_and_broker, tmp_path, monkeypatch, jobs=4, steps=200, kills=kills, acts=acts)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("rig_and_broker", ["embedded"], indirect=True)
def test_kills_on_a_service_that_keeps_no_record(
    rig_and_broker: tuple[Rig, Proxy | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repeated seq_id would run again there, and JSON is all it speaks: whether what a dead worker had under way
    took effect is not known, so the death is followed by an exact restore into a new run."""

    def acts(stage: Stage) -> list[tuple[Callable[[], None], int]]:
        return [
            (stage.kill_one, 10),
            (stage.ask_one_to_leave, 2),
            (stage.corrupt_run, 1),
            (stage.disturb_service, 1),
        ]

    kills = int(os.environ.get("NSAI_CHAOS_KILLS") or 60)
    service = ("--no-replay", "--json-only")
    _chaos(rig_and_broker, tmp_path, monkeypatch, jobs=3, steps=60, kills=kills, acts=acts, service=service)
