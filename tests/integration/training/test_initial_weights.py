"""A run that starts with the weights of an earlier one: a new axis of steps, and exact under kills."""

from pathlib import Path
from typing import Any

import pytest

from backends.fake import FakeBackend
from crucible.errors import BackendUnavailable, NoCheckpoint
from tests.integration.training.harness import STEPS, Reaper, Scene, payload_of, write_data
from tests.integration.training.service import Service
from tests.integration.training.test_survival import check_equal, final_path

pytestmark = pytest.mark.anyio


async def earlier(folder: Path) -> Scene:
    """A run that has ended."""
    scene = Scene(payload_of(folder, max_steps=3))
    await scene.drive()
    return scene


async def started(folder: Path, first: Scene, **fields: Any) -> Scene:
    """A run that starts where another has ended, at its service."""
    return Scene(payload_of(folder, init_from=final_path(first), **fields), first.service)


async def test_the_weights_are_those_of_the_checkpoint_and_the_steps_count_anew(tmp_path: Path) -> None:
    """With or without the state of the optimizer, which shows from the second step on."""
    (tmp_path / "one").mkdir()
    data = {"data": {"path": str(write_data(tmp_path / "one", examples=1))}, "batch_size": 1}
    whole = Scene(payload_of(tmp_path, **data))
    await whole.drive()
    first = Scene(payload_of(tmp_path, max_steps=3, **data))
    await first.drive()
    losses = {}
    for optimizer in (False, True):
        start = {"path": final_path(first), "optimizer": optimizer}
        scene = Scene(payload_of(tmp_path, max_steps=4, init_from=start, **data), first.service)
        result = await scene.drive()
        assert (result["resume"], result["recoveries"], result["steps"]) == ("fresh", 0, 4)
        scene.check_complete(4)
        losses[optimizer] = scene.losses
    assert losses[True] == whole.losses[3:]
    assert losses[False][0] == whole.losses[3]
    assert losses[False][1] != whole.losses[4]


@pytest.mark.parametrize("service", [{}, {"replays": False}, {"attachable": False}])
async def test_killed_at_every_point(tmp_path: Path, service: dict[str, Any]) -> None:
    """Also before the first checkpoint of its own: it then starts with the same weights again."""
    fields = {"checkpoint_policy": {"save_every": 4}}
    alone = await started(tmp_path, await earlier(tmp_path), **fields)
    reaper = Reaper()
    check_equal(alone, alone, await alone.drive(reaper=reaper))
    for kill_at in range(1, reaper.contacts + 1, 3):
        scene = await started(tmp_path, await earlier(tmp_path), **fields)
        for name, value in service.items():
            setattr(scene.service, name, value)
        check_equal(scene, alone, await scene.survive([kill_at]))


async def test_a_service_that_is_away_is_tried_again(tmp_path: Path) -> None:
    """As at any other start."""
    scene = await started(tmp_path, await earlier(tmp_path))
    failures = 2

    def fail(place: str, _: dict[str, Any]) -> None:
        nonlocal failures
        if place == "recover" and failures:
            failures -= 1
            raise BackendUnavailable("away")

    scene.service.hook = fail
    assert (await scene.drive())["steps"] == STEPS


async def test_a_checkpoint_that_is_gone_ends_the_job(tmp_path: Path) -> None:
    """By its field."""
    scene = Scene(payload_of(tmp_path, init_from="memory://gone"), Service())
    with pytest.raises(NoCheckpoint, match=r"payload\.init_from: "):
        await scene.drive()


@pytest.mark.parametrize(
    "lora", [{"rank": 8}, {"train_mlp": False}, {"train_attn": False}, {"train_unembed": False}]
)
async def test_weights_of_another_shape_are_refused(tmp_path: Path, lora: dict[str, Any]) -> None:
    """They would be trained in their own shape, not in that of the job."""
    small = {"base_model": "tiny-lm", "max_steps": 1}
    first = Scene(payload_of(tmp_path, **small, lora={"rank": 4}), new_backend=FakeBackend)
    made = await first.drive()
    payload = payload_of(tmp_path, **small, lora={"rank": 4} | lora, init_from=made["checkpoint"])
    with pytest.raises(NoCheckpoint, match=f"its {next(iter(lora))} is"):
        await Scene(payload, new_backend=FakeBackend).drive()
