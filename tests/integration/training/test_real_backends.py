"""The same promises over real HTTP: the tinkex backend and the development server, and the fake backend.

The server's own log says what it really did; the digest of a checkpoint is that of weights and optimizer state.
Every third point of a run is tried on the service in memory (``test_survival.py``); here, a few points are in
``make test`` and more in ``make test-slow``.
"""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from backends.fake import FakeBackend
from backends.tinkex.backend import TinkexBackend
from backends.tinkex_dev import faults
from backends.tinkex_dev.server import DevServer
from crucible.backend import TrainingBackend
from crucible.errors import BackendUnavailable, InvalidRequest, OutOfCredit
from nsai_work.concurrency.control import Control, StopReason
from nsai_work.errors import HandOver
from tests.integration.training.harness import Killed, Reaper, Scene, payload_of
from tests.integration.training.real_scene import POLICY, STEPS, Alone, applied, check_equal, evaluations, scene_on

pytestmark = pytest.mark.anyio

Scenes: TypeAlias = Callable[..., Scene]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """The undisturbed run. Servers with the same seed train to the same bits, so one is enough for all tests."""
    folder, counted = tmp_path_factory.mktemp("alone"), Reaper()
    with DevServer(folder / "server", seed=0, hold_s=2.0) as server:
        scene = scene_on(server, folder)
        result = asyncio.run(scene.drive(reaper=counted))
        assert [step for step, _ in evaluations(scene)] == [0, 4, 8]
        return Alone(
            scene.losses, evaluations(scene), server.checkpoint_digest(str(result["checkpoint"])), counted.contacts
        )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DevServer]:
    """A server that nothing else uses."""
    with DevServer(tmp_path / "server", seed=0, hold_s=2.0) as server:
        yield server


@pytest.fixture
def make_scene(tmp_path: Path, server: DevServer) -> Scenes:
    """Makes jobs on the server."""

    def make(**fields: Any) -> Scene:
        return scene_on(server, tmp_path, **fields)

    return make


@pytest.mark.parametrize("distance", [41, pytest.param(17, marks=pytest.mark.slow)])
@pytest.mark.parametrize("send_ahead", [False, True])
async def test_a_run_killed_at_many_points_is_taken_over_warm(
    server: DevServer, make_scene: Scenes, alone: Alone, send_ahead: bool, distance: int
) -> None:
    """One remote run, each optimizer step once in the server's log, the same bits at the end."""
    for kill_at in range(3, alone.contacts + 1, distance):
        scene = make_scene(send_ahead=send_ahead)
        result = await scene.survive([kill_at])
        check_equal(server, scene, alone, result)
        [steps] = applied(server, scene).values()
        assert len(steps) == STEPS
        assert result["recoveries"] == 0


async def test_a_run_killed_again_and_again_is_taken_over_warm(
    server: DevServer, make_scene: Scenes, alone: Alone
) -> None:
    """Seven deaths, one remote run."""
    scene = make_scene(pipeline_depth=4)
    result = await scene.survive([17, 11, 23, 9, 14, 10, 31])
    check_equal(server, scene, alone, result)
    [steps] = applied(server, scene).values()
    assert len(steps) == STEPS
    assert result["resume"] == "warm"


async def test_where_repeats_run_again_a_death_means_a_restore(tmp_path: Path, alone: Alone) -> None:
    """A server that does not know repeats: new runs from checkpoints, and still the same bits."""
    with DevServer(tmp_path / "other", seed=0, hold_s=2.0, replay=False) as server:
        for kill_at in range(12, alone.contacts + 1, 29):
            scene = scene_on(server, tmp_path)
            result = await scene.survive([kill_at])
            check_equal(server, scene, alone, result)
            assert result["resume"] in ("fresh", "restarted", "warm", "exact", "unverified")


FAULTS: dict[str, list[Any]] = {
    "flagged": [faults.CorruptRun(after_optim_steps=5)],
    "poisoned with NaN, without a flag": [faults.CorruptRun(after_optim_steps=5, mode=faults.CorruptionMode.NAN)],
    "5xx": [faults.RouteFault(route="optim_step", status=503, skip=3, count=2)],
    "reset before the answer": [
        faults.RouteFault(route="forward_backward", reset=True, after=True, skip=3, count=2)
    ],
    "reset of the save's answer": [faults.RouteFault(route="save_weights", reset=True, after=True)],
    "429": [faults.RouteFault(route="forward_backward", status=429, retry_after_s=0.05, skip=4)],
    "a pass fails at the service": [faults.FailOperation(operation="forward_backward", skip=4)],
    "a step fails at the service": [faults.FailOperation(operation="optim_step", skip=4, category="unknown")],
    "a save fails at the service": [faults.FailOperation(operation="save_weights", skip=1, detail="no space left")],
    "the final save fails": [faults.FailOperation(operation="save_weights_for_sampler")],
    "a late pass": [faults.RouteFault(route="forward_backward", delay_ms=80, skip=2, count=2)],
    "a late step and a late save": [
        faults.RouteFault(route="optim_step", delay_ms=80, skip=3),
        faults.RouteFault(route="save_weights", delay_ms=80),
    ],
    "lost before it arrived": [faults.RouteFault(route="optim_step", reset=True, skip=3, count=2)],
    "410 on futures": [faults.RouteFault(route="retrieve_future", status=410, skip=6)],
}


@pytest.mark.parametrize("send_ahead", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_changes_no_bit(
    server: DevServer, make_scene: Scenes, alone: Alone, fault: str, send_ahead: bool
) -> None:
    """Over real HTTP too."""
    for placed in FAULTS[fault]:
        server.fault(placed)

    scene = make_scene(send_ahead=send_ahead)
    result = await scene.drive()

    check_equal(server, scene, alone, result)
    assert not server.faults(), "the fault has struck"
    assert result["resume"] in ("fresh", "restarted", "exact", "unverified")
    if fault.startswith(("flagged", "poisoned")) or "fail" in fault:
        assert result["recoveries"] == 1


@pytest.mark.parametrize(("route", "number"), [("forward_backward", 4), ("forward_backward", 9), ("optim_step", 3)])
async def test_a_request_that_is_refused_with_others_behind_it_ends_the_run(
    server: DevServer, make_scene: Scenes, alone: Alone, route: str, number: int
) -> None:
    """The job fails with the refusal; a retry restores, or begins anew."""
    server.fault(faults.RouteFault(route=route, status=422, detail="too odd", skip=number))
    scene = make_scene(send_ahead=True)
    with pytest.raises(InvalidRequest, match="too odd"):
        await scene.drive()
    assert scene.journal.runs[0].end_reason is not None

    check_equal(server, scene, alone, await scene.drive())


async def test_a_failure_on_record_is_never_asked_for_again_by_a_later_attempt(
    server: DevServer, make_scene: Scenes, alone: Alone
) -> None:
    """The service's disk is full for longer than one attempt: the next begins with a restore, not with a replay."""
    server.fault(faults.FailOperation(operation="save_weights", skip=1, count=5, detail="no space left"))
    scene = make_scene()
    with pytest.raises(BackendUnavailable, match="no space left") as failed:
        await scene.drive()
    assert failed.value.retryable
    assert all(run.end_reason is not None for run in scene.journal.runs)
    assert scene.slept == [1.0, 2.0, 4.0]

    result = await scene.drive()

    check_equal(server, scene, alone, result)
    assert not server.faults()


async def test_a_retry_after_a_failure_by_the_user_restores(
    server: DevServer, make_scene: Scenes, alone: Alone
) -> None:
    """No recovery is tried for what the service calls the user's fault; a retry of the job restores."""
    server.fault(faults.FailOperation(operation="optim_step", skip=4, category="user", detail="too much"))
    scene = make_scene()
    with pytest.raises(InvalidRequest, match="too much"):
        await scene.drive()

    result = await scene.drive()

    check_equal(server, scene, alone, result)
    assert result["recoveries"] == 1


@pytest.mark.parametrize("strategy", ["steps", "epoch", "best", "last", "all"])
async def test_every_checkpoint_strategy_has_a_recent_state(
    server: DevServer, make_scene: Scenes, alone: Alone, strategy: str
) -> None:
    """Corrupted in step 8 of 8: none goes back further than to the newest multiple of save_every."""
    server.fault(faults.CorruptRun(after_optim_steps=7, mode=faults.CorruptionMode.NAN))
    # a norm that shrinks is never better than the first
    policy = {"strategy": strategy, "save_every": 3, "best_metric": "grad_norm", "best_mode": "max"}
    scene = make_scene(checkpoint_policy=policy)
    result = await scene.drive()
    check_equal(server, scene, alone, result)
    assert [run["from_step"] for run in result["lineage"]] == [0, 6]
    assert all(set(step.metrics) == set(TinkexBackend.metrics) for step in scene.journal.steps)


async def test_scrambled_weights_are_caught(server: DevServer, make_scene: Scenes, alone: Alone) -> None:
    """A run that is flagged and goes on answering from broken weights: none of it ends in the result."""
    server.fault(faults.CorruptRun(after_optim_steps=5, mode=faults.CorruptionMode.SILENT))
    scene = make_scene(checkpoint_policy={"save_every": 1, "keep_last": 3})
    result = await scene.drive()
    assert server.checkpoint_digest(result["checkpoint"]) == alone.digest
    assert scene.losses == alone.losses


async def test_poisoned_losses_are_no_evidence_against_a_restore(
    server: DevServer, make_scene: Scenes, alone: Alone
) -> None:
    """The run was flagged late; step 5 was recorded from scrambled weights, and that its repeat differs is none."""
    scene = make_scene(pipeline_depth=1, recovery={"enabled": True, "backoff_ms": 0, "on_cold_optimizer": "stop"})

    class Poisoning(Reaper):
        struck = False

        def cross(self) -> None:
            super().cross()
            if len(scene.journal.steps) == 4 and not self.struck:
                self.struck = True
                run_id = scene.journal.runs[-1].ref.run_id
                server.fault(faults.CorruptRun(model_id=run_id, mode=faults.CorruptionMode.SILENT))

    result = await scene.drive(reaper=Poisoning())

    check_equal(server, scene, alone, result)
    assert result["resume"] == "unverified"
    [event] = scene.journal.events_named("resume.inconclusive")
    assert event["step"] == 5


async def test_a_lost_run_is_restored_and_proven(server: DevServer, make_scene: Scenes, alone: Alone) -> None:
    """The owner dies, and the model with it: the next one restores, repeats two steps and finds them equal."""
    scene = make_scene()
    with pytest.raises(Killed):
        await scene.drive(reaper=Reaper(when=lambda: len(scene.journal.steps) == 5))
    server.fault(faults.LoseModel(model_id=scene.journal.runs[-1].ref.run_id))

    result = await scene.drive()

    check_equal(server, scene, alone, result)
    assert result["resume"] == "exact"
    assert [run["from_step"] for run in result["lineage"]] == [0, 3]


async def test_a_server_that_forgets_the_optimizer_is_found_out(server: DevServer, make_scene: Scenes) -> None:
    """It says nothing; the second repeated step does."""
    scene = make_scene()
    with pytest.raises(Killed):
        await scene.drive(reaper=Reaper(when=lambda: len(scene.journal.steps) == 5))
    server.fault(faults.LoseModel(model_id=scene.journal.runs[-1].ref.run_id))
    server.fault(faults.ColdOptimizer())

    result = await scene.drive()

    assert result["resume"] == "cold"
    [event] = scene.journal.events_named("resume.cold")
    assert event["missing"] == "optimizer"


async def test_a_server_that_restarts_in_the_middle(
    tmp_path: Path, make_scene: Scenes, alone: Alone, server: DevServer
) -> None:
    """Its models are gone, its checkpoints are not."""
    scene = make_scene()
    with pytest.raises(Killed):
        await scene.drive(kill_at=40)
    server.stop()
    server.start()
    result = await scene.drive()
    check_equal(server, scene, alone, result)
    assert result["recoveries"] == 1


async def test_a_damaged_checkpoint_is_passed_over(server: DevServer, make_scene: Scenes, alone: Alone) -> None:
    """The one before it does."""
    scene = make_scene()
    with pytest.raises(Killed):
        await scene.drive(reaper=Reaper(when=lambda: len(scene.journal.steps) == 7))
    newest = max((row for row in scene.journal.checkpoints.values() if row.kept), key=lambda row: row.step)
    assert newest.step == 6
    server.fault(faults.LoseModel(model_id=scene.journal.runs[-1].ref.run_id))
    server.fault(faults.DamageCheckpoint(path=str(newest.path)))

    result = await scene.drive()

    check_equal(server, scene, alone, result)
    assert result["lineage"][-1]["from_step"] == 3


async def test_out_of_credit_waits_and_goes_on(server: DevServer, make_scene: Scenes, alone: Alone) -> None:
    """The error goes up to the worker, which lets the job wait; later the same run goes on."""
    scene = make_scene()
    with pytest.raises(Killed):
        await scene.drive(kill_at=30)
    server.fault(faults.ExhaustCredit())
    with pytest.raises(OutOfCredit):
        await scene.drive()
    server.fault(faults.ExhaustCredit(on=False))
    result = await scene.drive()
    check_equal(server, scene, alone, result)
    assert result["resume"] == "warm"


async def test_a_shutdown_hands_the_run_over(server: DevServer, make_scene: Scenes, alone: Alone) -> None:
    """What is under way is recorded first; the successor replays nothing."""
    scene, control = make_scene(), Control()

    class Stopping(Reaper):
        def cross(self) -> None:
            super().cross()
            if self.contacts == 30:
                control.stop(StopReason.SHUTDOWN)

    with pytest.raises(HandOver):
        await scene.drive(control=control, reaper=Stopping())
    result = await scene.drive()
    check_equal(server, scene, alone, result)
    assert result["resume"] == "warm"


async def test_the_fake_backend_keeps_the_same_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another backend, nothing else changed: killed at many points, the losses are equal."""
    fields = {
        "base_model": "tiny-lm",
        "lora": {"rank": 4, "seed": 0},
        "checkpoint_policy": POLICY,
        "eval": {"every": 4, "split": 0.3},
    }
    new_backend: Callable[[], TrainingBackend] = FakeBackend
    alone, counted = Scene(payload_of(tmp_path, **fields), new_backend=new_backend), Reaper()
    await alone.drive(reaper=counted)
    for kill_at in range(2, counted.contacts + 1, 7):
        scene = Scene(payload_of(tmp_path, **fields), new_backend=new_backend)
        result = await scene.survive([kill_at, 25])
        assert scene.losses == alone.losses
        assert evaluations(scene) == evaluations(alone) != []
        assert result["recoveries"] == 0
