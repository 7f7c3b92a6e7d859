"""Saves over a whole run: commit, retention, deletion, and the checkpoint that a recovery restores."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from crucible.errors import (
    BackendUnavailable,
    NoCheckpoint,
    OutOfCredit,
    RunCorrupted,
)
from crucible.training import IntentKind
from nsai_work.journal import CheckpointStatus
from tests.integration.training.harness import STEPS, Scene, payload_of
from tests.integration.training.hooks import flag, kill_run, once, throw
from tests.integration.training.service import Service

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("kind", ["flag", "error"])
async def test_what_a_poisoned_run_saved_is_never_committed(tmp_path: Path, kind: str) -> None:
    """The run is poisoned between a save and its check: the save stays uncommitted."""
    scene = Scene(payload_of(tmp_path))
    poisoned: list[str] = []

    def hook(event: str, details: dict[str, Any]) -> None:
        intent = details.get("intent")
        if event != "result" or intent.kind is not IntentKind.SAVE_STATE or intent.step != 4 or poisoned:
            return
        poisoned.append(intent.name)
        if kind == "error":
            raise RunCorrupted("poisoned")
        # after the result is out, and before the service is asked how the run is
        asyncio.get_running_loop().call_soon(flag, details)

    scene.service.hook = hook
    await scene.drive()
    assert scene.journal.checkpoints[poisoned[0]].status is CheckpointStatus.LOST
    scene.check_complete()


async def test_a_broken_checkpoint_is_passed_over(tmp_path: Path, alone: Scene) -> None:
    """The newest checkpoint cannot be used any more: the one before it is, and the broken one is marked lost."""
    scene = Scene(payload_of(tmp_path))

    def act(details: dict[str, Any]) -> None:
        for path, saved in scene.service.saved.items():
            saved.usable = not path.endswith("s000004")
        kill_run(details)

    scene.service.hook = once("result", 6, act)
    result = await scene.drive()
    assert scene.losses == alone.losses
    assert [run["from_step"] for run in result["lineage"]] == [0, 2]
    lost = [row.name for row in scene.journal.checkpoints.values() if row.status is CheckpointStatus.LOST]
    assert "456789abcdef-g001-s000004" in lost


async def test_a_recovery_to_the_best_checkpoint_leaves_no_gap(tmp_path: Path) -> None:
    """Going back further than need be: what was saved after it does not count any more, and is let go."""
    recovery = {"enabled": True, "checkpoint_strategy": "best_loss", "poll_interval_ms": 10}
    diverging = {"optimizer": {"learning_rate": 1.0}, "checkpoint_policy": {"save_every": 1}}
    alone = Scene(payload_of(tmp_path, **diverging))
    await alone.drive()
    best = min(alone.journal.steps, key=lambda step: step.loss).step
    assert best == 5
    scene = Scene(payload_of(tmp_path, recovery=recovery, **diverging))
    scene.service.hook = once("result", 7, kill_run)

    result = await scene.drive()

    scene.check_complete()
    assert scene.losses == alone.losses
    assert [run["from_step"] for run in result["lineage"]] == [0, best]
    gone = [row for row in scene.journal.checkpoints.values() if row.note == "its steps were superseded"]
    assert gone
    assert all(row.status is CheckpointStatus.DELETED and row.generation == 1 for row in gone)


async def test_the_best_checkpoint_of_a_metric_to_maximize_is_the_highest(tmp_path: Path, alone: Scene) -> None:
    """best_loss goes by the policy's metric and its mode."""
    fields = {
        "recovery": {"checkpoint_strategy": "best_loss", "backoff_ms": 0, "poll_interval_ms": 10},
        "checkpoint_policy": {"save_every": 1, "keep_last": 9, "best_metric": "loss_sum", "best_mode": "max"},
    }
    scene = Scene(payload_of(tmp_path, **fields))
    scene.service.hook = once("result", 6, kill_run)
    result = await scene.drive()
    highest = max(alone.journal.steps[:5], key=lambda step: step.loss).step
    assert highest != min(alone.journal.steps[:5], key=lambda step: step.loss).step
    assert result["lineage"][1]["from_step"] == highest
    assert scene.losses == alone.losses


async def test_without_any_checkpoint_the_job_begins_again(tmp_path: Path, alone: Scene) -> None:
    """Its seed makes that exact."""
    scene = Scene(payload_of(tmp_path, checkpoint_policy={"strategy": "last", "save_every": 100}))
    scene.service.hook = once("result", 6, kill_run)
    result = await scene.drive()
    assert scene.losses == alone.losses
    assert [run["from_step"] for run in result["lineage"]] == [0, 0]
    assert (result["resume"], result["lost_steps"]) == ("restarted", 5)
    assert result["lineage"][1]["restart_reason"] == "no checkpoint had been saved by step 5"
    [event] = scene.journal.events_named("resume.restarted")
    assert (event["lost_steps"], event["reason"]) == (5, "no checkpoint had been saved by step 5")


async def test_a_restart_names_what_was_wrong_with_each_checkpoint(tmp_path: Path, alone: Scene) -> None:
    """The event and the result carry the reason; a takeover of the new run does not hide it."""
    scene = Scene(payload_of(tmp_path))

    def act(details: dict[str, Any]) -> None:
        for saved in scene.service.saved.values():
            saved.usable = False
        kill_run(details)

    scene.service.hook = once("result", 6, act)
    result = await scene.drive()
    assert scene.losses == alone.losses
    assert (result["resume"], result["lost_steps"]) == ("restarted", 5)
    assert result["lineage"][1]["restart_reason"] == "no checkpoint is usable"
    assert len(scene.journal.events_named("service.recovery.checkpoint_rejected")) == 2


async def test_a_restore_counts_the_steps_that_it_repeats(tmp_path: Path) -> None:
    scene = Scene(payload_of(tmp_path))
    scene.service.hook = once("result", 6, kill_run)
    result = await scene.drive()
    assert (result["resume"], result["lost_steps"]) == ("unverified", 1)
    assert [run["lost_steps"] for run in result["lineage"]] == [0, 1]


async def test_a_named_checkpoint_that_is_not_usable_stops_the_job_and_costs_no_other(tmp_path: Path) -> None:
    """The policy names one path: the others are neither used nor given up, and nothing starts again at 0."""
    recovery = {"checkpoint_strategy": "service://run-9/weights/other", "backoff_ms": 0, "poll_interval_ms": 10}
    scene = Scene(payload_of(tmp_path, recovery=recovery))
    scene.service.hook = once("result", 6, kill_run)
    with pytest.raises(NoCheckpoint, match=r"service://run-9/weights/other.*known: service://run-1/weights/"):
        await scene.drive()
    assert [row.step for row in scene.journal.checkpoints.values() if row.kept] == [2, 4]
    assert len(scene.journal.runs) == 1


@pytest.mark.parametrize("strategy", ["steps", "epoch", "best", "last", "all"])
@pytest.mark.parametrize("metric", ["loss", "loss_sum", "absent"])
async def test_a_run_corrupted_at_any_step_goes_back_save_every_at_most(
    tmp_path: Path, alone: Scene, strategy: str, metric: str
) -> None:
    """Whatever the strategy, and whether the service sends the metric or not."""
    policy = {"strategy": strategy, "save_every": 2, "keep_last": 1, "best_metric": metric}
    for step in range(1, STEPS + 1):
        scene = Scene(payload_of(tmp_path, checkpoint_policy=policy))
        scene.service.hook = once("result", step, throw(RunCorrupted("poisoned")))
        result = await scene.drive()
        assert scene.losses == alone.losses
        assert step - result["lineage"][-1]["from_step"] <= 2
        assert result.get("missing_metric") == ("absent" if metric == "absent" else None)
        missing = scene.journal.events_named("checkpoint.metric_missing")
        assert [event["metric"] for event in missing] == (["absent"] if metric == "absent" else [])


async def test_a_save_that_fails_its_check_is_lost_and_the_run_goes_on(tmp_path: Path, alone: Scene) -> None:
    """Only the final one is worth a recovery."""
    scene = Scene(payload_of(tmp_path))
    broken: list[str] = []

    def hook(event: str, details: dict[str, Any]) -> None:
        if event == "check" and details["path"].endswith(("g001-s000004", "g001-s000007")):
            scene.service.saved[details["path"]].usable = False
            broken.append(details["path"])

    scene.service.hook = hook
    result = await scene.drive()
    assert len(broken) == 2
    assert scene.losses == alone.losses
    assert result["recoveries"] == 1
    assert "g002" in str(result["checkpoint"])


async def test_retention_keeps_what_is_needed(tmp_path: Path) -> None:
    """keep_last 1: at no time more than the newest, the best and the one being made; deletions are recorded."""
    policy = {"save_every": 1, "keep_last": 1, "save_best": False}
    scene = Scene(payload_of(tmp_path, checkpoint_policy=policy))

    await scene.drive()

    kept = [row.step for row in scene.journal.checkpoints.values() if row.kept]
    assert kept == [STEPS]
    assert scene.service.most_saved <= 4
    assert len(scene.journal.events_named("checkpoint.deleted")) == STEPS - 1


async def test_a_promoted_checkpoint_stays(tmp_path: Path) -> None:
    """Also when it is promoted while the run goes on."""
    scene = Scene(payload_of(tmp_path, checkpoint_policy={"save_every": 1, "keep_last": 1, "save_best": False}))

    def act(details: dict[str, Any]) -> None:
        for name, row in scene.journal.checkpoints.items():
            if row.kept:
                scene.journal.checkpoints[name] = row.model_copy(update={"promoted": True})

    scene.service.hook = once("result", 4, act)
    await scene.drive()
    kept = [row.step for row in scene.journal.checkpoints.values() if row.kept]
    assert len(kept) == 2
    assert kept[0] < 4


async def test_sampling_weights_that_were_saved_meanwhile_are_deleted_with_their_state(tmp_path: Path) -> None:
    """They are not of the run that deletes, which learns of them as it does."""
    scene = Scene(payload_of(tmp_path, checkpoint_policy={"save_every": 1, "keep_last": 1, "save_best": False}))
    deleted: list[str] = []

    def hook(event: str, details: dict[str, Any]) -> None:
        if event == "delete":
            deleted.append(details["path"])
        for name, row in scene.journal.checkpoints.items():
            if row.kept and row.step == 2 and row.sampler_path is None:
                scene.journal.checkpoints[name] = row.model_copy(update={"sampler_path": "service://other/of-2"})

    scene.service.hook = hook
    await scene.drive()
    [state] = [row.path for row in scene.journal.checkpoints.values() if row.step == 2]
    assert deleted.index("service://other/of-2") == deleted.index(str(state)) + 1


async def test_a_deletion_that_fails_is_an_event_and_is_finished_later(tmp_path: Path) -> None:
    """It neither fails the job nor is forgotten."""
    scene = Scene(payload_of(tmp_path, checkpoint_policy={"save_every": 1, "keep_last": 1, "save_best": False}))
    failing = [True]

    def hook(event: str, details: dict[str, Any]) -> None:
        if event == "delete" and failing[0]:
            raise BackendUnavailable("away")
        if event == "send" and details["intent"].step == 5 and failing[0]:
            failing[0] = False
            raise OutOfCredit("402")

    scene.service.hook = hook
    with pytest.raises(OutOfCredit):
        await scene.drive()
    assert scene.journal.events_named("checkpoint.delete_failed")
    await scene.drive()
    left = [row.status for row in scene.journal.checkpoints.values() if row.status is not CheckpointStatus.DELETED]
    assert left == [CheckpointStatus.COMMITTED]


@pytest.mark.parametrize("replays", [True, False, None], ids=["replays", "repeats", "unknown"])
async def test_a_save_stands_alone_where_the_order_is_not_known_to_be_kept(
    tmp_path: Path, replays: bool | None
) -> None:
    """Where a step might overtake a save, the two never are under way together; elsewhere they are."""
    scene = Scene(
        payload_of(tmp_path, pipeline_depth=3, checkpoint_policy={"save_every": 2}),
        service=Service(replays=replays),
    )
    under_way: dict[int, IntentKind] = {}
    together: set[frozenset[IntentKind]] = set()

    def hook(event: str, details: dict[str, Any]) -> None:
        if event == "send":
            under_way[details["intent"].last_seq_id] = details["intent"].kind
            together.add(frozenset(under_way.values()))
        elif event == "result":
            under_way.pop(details["intent"].last_seq_id, None)

    scene.service.hook = hook
    await scene.drive()

    scene.check_complete()
    mixed = [kinds for kinds in together if len(kinds) > 1]
    assert bool(mixed) == (replays is True)
