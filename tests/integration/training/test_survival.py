"""A training run that is killed anywhere ends as one that was left alone."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible.errors import AnswerLost, BackendUnavailable
from tests.integration.training.harness import DISTANCES, STEPS, Killed, Reaper, Scene, payload_of
from tests.integration.training.service import Run, Service

pytestmark = pytest.mark.anyio

SERVICES = {
    "replays": {},
    "repeats": {"replays": False},
    "unknown": {"replays": None},
    "dies with its client": {"attachable": False},
    "orders": {"orders": True},
}


async def undisturbed(folder: Path, **fields: Any) -> Scene:
    """The run that nothing happened to."""
    scene = Scene(payload_of(folder, **fields))
    result = await scene.drive()
    scene.check_complete()
    assert result["resume"] == "fresh"
    return scene


def check_equal(scene: Scene, alone: Scene, result: dict[str, Any]) -> None:
    scene.check_complete()
    assert scene.losses == alone.losses
    final = scene.service.saved[result["checkpoint"]].model
    reference = alone.service.saved[final_path(alone)].model
    assert final == reference
    assert scene.service.saved[result["model"]].model == reference
    assert result["loss"] == alone.losses[-1]
    assert result["steps"] == STEPS


def final_path(scene: Scene) -> str:
    [path] = [row.path for row in scene.journal.checkpoints.values() if row.final and row.kept]
    assert path is not None
    return path


async def contacts(folder: Path, service: dict[str, Any], **fields: Any) -> int:
    """How often an undisturbed driver touches the world outside."""
    reaper = Reaper()
    await Scene(payload_of(folder, **fields), Service(**service)).drive(reaper=reaper)
    return reaper.contacts


@pytest.mark.parametrize(
    ("kind", "depth"),
    [
        ("replays", 1),
        ("replays", 3),
        ("orders", None),
        ("orders", 3),
        ("repeats", 1),
        ("repeats", 3),
        ("unknown", 2),
        ("dies with its client", 2),
    ],
)
@pytest.mark.parametrize("distance", DISTANCES)
async def test_killed_at_every_point(tmp_path: Path, kind: str, depth: int | None, distance: int) -> None:
    """One death at each possible point, one run per point: same losses, same weights, each step applied once."""
    alone = await undisturbed(tmp_path, pipeline_depth=depth)
    for kill_at in range(1, await contacts(tmp_path, SERVICES[kind], pipeline_depth=depth) + 1, distance):
        scene = Scene(payload_of(tmp_path, pipeline_depth=depth), Service(**SERVICES[kind]))

        result = await scene.survive([kill_at])

        check_equal(scene, alone, result)
        if kind in ("replays", "orders"):
            assert len(scene.journal.runs) == 1, "a warm takeover loses nothing"
            assert scene.newest_applied() == list(range(1, STEPS + 1))


@pytest.mark.parametrize("strategy", ["steps", "epoch", "best", "last", "all"])
async def test_killed_at_every_point_of_every_checkpoint_policy(tmp_path: Path, strategy: str) -> None:
    """The agenda comes out the same for every later owner, whatever decides about its saves."""
    fields = {"checkpoint_policy": {"strategy": strategy, "save_every": 2, "keep_last": 1, "best_mode": "max"}}
    alone = await undisturbed(tmp_path, **fields)
    for service in ({}, {"replays": False}):
        for kill_at in range(1, await contacts(tmp_path, service, **fields) + 1, 5):
            scene = Scene(payload_of(tmp_path, **fields), Service(**service))
            check_equal(scene, alone, await scene.survive([kill_at]))


@settings(max_examples=40, derandomize=True)
@given(
    kills=st.lists(st.integers(1, 70), max_size=9),
    kind=st.sampled_from(sorted(SERVICES)),
    depth=st.integers(1, 5),
    save_every=st.integers(1, 4),
)
async def test_killed_again_and_again(
    tmp_path_factory: pytest.TempPathFactory, kills: list[int], kind: str, depth: int, save_every: int
) -> None:
    """Any number of deaths at any points, during takeovers and restores too."""
    folder = tmp_path_factory.mktemp("data")
    fields = {"pipeline_depth": depth, "checkpoint_policy": {"save_every": save_every, "keep_last": 1}}
    alone = await undisturbed(folder)
    scene = Scene(payload_of(folder, **fields), Service(**SERVICES[kind]))

    result = await scene.survive(kills)

    check_equal(scene, alone, result)
    assert result["resume"] in ("fresh", "restarted", "warm", "exact", "unverified")
    assert not scene.journal.events_named("resume.cold")


FAULTS = ["gone", "lost", "away"]
FAULT = st.tuples(st.sampled_from(FAULTS), st.sampled_from(["send", "sent", "result"]), st.integers(1, STEPS))


@settings(max_examples=40, derandomize=True)
@given(
    faults=st.lists(FAULT, max_size=4),
    poisoned=st.none() | st.integers(1, STEPS),
    kills=st.lists(st.integers(1, 70), max_size=5),
    kind=st.sampled_from(sorted(SERVICES)),
    depth=st.integers(1, 4),
)
async def test_deaths_and_faults_together(
    tmp_path_factory: pytest.TempPathFactory,
    faults: list[tuple[str, str, int]],
    poisoned: int | None,
    kills: list[int],
    kind: str,
    depth: int,
) -> None:
    """Runs that vanish, answers that are lost, a service that is away, a poisoned run, and deaths in between."""
    folder = tmp_path_factory.mktemp("data")
    alone = await undisturbed(folder)
    recovery = {"enabled": True, "max_attempts": 50, "poll_interval_ms": 10}
    scene = Scene(payload_of(folder, pipeline_depth=depth, recovery=recovery), Service(**SERVICES[kind]))
    waiting = [*faults, *([("poison", "result", poisoned)] if poisoned else [])]

    def hook(event: str, details: dict[str, Any]) -> None:
        for fault in waiting:
            name, when, step = fault
            if event == when and details["intent"].step == step:
                waiting.remove(fault)
                strike(name, details["run"])

    scene.service.hook = hook
    check_equal(scene, alone, await scene.survive(kills))


def strike(fault: str, run: Run) -> None:
    """What a fault does."""
    match fault:
        case "gone":
            run.alive = False
        case "lost":
            raise AnswerLost("410")
        case "poison":
            run.corrupted = True
        case _:
            raise BackendUnavailable("away")


async def test_a_killed_driver_is_really_dead(tmp_path: Path) -> None:
    """The harness kills: an attempt that dies raises, and its journal is unfinished."""
    scene = Scene(payload_of(tmp_path))
    with pytest.raises(Killed):
        await scene.drive(kill_at=20)
    assert len(scene.journal.steps) < STEPS
