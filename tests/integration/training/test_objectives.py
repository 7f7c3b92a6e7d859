"""Steps whose loss the driver computes: forward passes in the middle of a run, killed anywhere."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.fake import FakeBackend
from crucible.errors import Unsupported
from crucible.training import Datum, IntentKind
from nsai_work.errors import InvalidJob
from nsai_work.training import objectives
from tests.integration.training.harness import STEPS, Killed, Reaper, Scene, payload_of
from tests.integration.training.service import Service
from tests.integration.training.test_survival import SERVICES

pytestmark = pytest.mark.anyio


def curved(
    data: Sequence[Datum], logprobs: Sequence[Any], *, scale: float = 1.0
) -> tuple[float, Sequence[Any], Mapping[str, float]]:
    """Half the squared log-probability: its gradient depends on the weights of the model."""
    return scale * sum(float((p**2).sum()) for p in logprobs) / 2, [scale * p for p in logprobs], {"scale": scale}


def ordinary(data: Sequence[Datum], logprobs: Sequence[Any]) -> tuple[float, Sequence[Any], Mapping[str, float]]:
    """Cross entropy."""
    weights = [np.asarray(datum.loss_inputs["weights"]) for datum in data]
    summed = sum(float((w * p).sum()) for w, p in zip(weights, logprobs, strict=True))
    return -summed / sum(float(w.sum()) for w in weights), [-w for w in weights], {}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """An objective of these tests."""
    monkeypatch.setattr(objectives, "BUILT_IN", {"curved": curved, "ordinary": ordinary})


def curved_payload(folder: Path, **fields: Any) -> Any:
    """A small job with an objective."""
    return payload_of(folder, objective={"name": "curved", "settings": {"scale": 0.5}}, **fields)


async def undisturbed(folder: Path, **fields: Any) -> Scene:
    """The run that nothing happened to."""
    scene = Scene(curved_payload(folder, **fields))
    await scene.drive()
    scene.check_complete()
    return scene


def check_equal(scene: Scene, alone: Scene) -> None:
    """The same losses, and each run has each forward pass right before its step."""
    scene.check_complete()
    assert scene.losses == alone.losses
    for run in scene.journal.runs:
        kinds = [i.kind for key, i in sorted(scene.journal.intents.items()) if key[0] == run.generation]
        steps = [place for place, kind in enumerate(kinds) if kind is IntentKind.STEP]
        assert all(kinds[place - 1] is IntentKind.FORWARD for place in steps)


@pytest.mark.parametrize("service", [{}, {"replays": False}, {"attachable": False}], ids=str)
async def test_killed_at_every_point(tmp_path: Path, service: dict[str, Any]) -> None:
    """Between a forward pass and its step too: a takeover repeats the pass, and comes to the same step."""
    alone = await undisturbed(tmp_path)
    reaper = Reaper()
    await Scene(curved_payload(tmp_path), Service(**service)).drive(reaper=reaper)
    for kill_at in range(1, reaper.contacts + 1):
        scene = Scene(curved_payload(tmp_path), Service(**service))
        await scene.survive([kill_at])
        check_equal(scene, alone)
        if not service:
            assert len(scene.journal.runs) == 1
            assert scene.newest_applied() == list(range(1, STEPS + 1))


@settings(max_examples=25, derandomize=True)
@given(
    kills=st.lists(st.integers(1, 60), max_size=6),
    depth=st.integers(1, 4),
    kind=st.sampled_from(["replays", "repeats", "orders"]),
)
async def test_killed_again_and_again(
    tmp_path_factory: pytest.TempPathFactory, kills: list[int], depth: int, kind: str
) -> None:
    """Any number of deaths at any points, at any depth."""
    folder = tmp_path_factory.mktemp("data")
    alone = await undisturbed(folder)
    scene = Scene(curved_payload(folder, pipeline_depth=depth), Service(**SERVICES[kind]))
    await scene.survive(kills)
    check_equal(scene, alone)


async def test_another_gradient_after_a_takeover_restores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The open step cannot be rebuilt, so nothing is sent in its place: a checkpoint is restored."""
    scene = Scene(curved_payload(tmp_path))
    service = scene.service
    with pytest.raises(Killed):
        await scene.drive(
            reaper=Reaper(when=lambda: len(service.runs) == 1 and service.newest.applied == [1, 2, 3])
        )
    calls = []

    def other(data: Sequence[Datum], logprobs: Sequence[Any], **settings: Any) -> Any:
        calls.append(1)
        loss, gradients, metrics = curved(data, logprobs, **settings)
        return loss, [gradient * (1.0 + (len(calls) == 1)) for gradient in gradients], metrics

    monkeypatch.setattr(objectives, "BUILT_IN", {"curved": other})
    await scene.drive()

    assert len(scene.journal.runs) == 2
    assert "cannot be rebuilt" in str(scene.journal.runs[0].end_reason)
    assert scene.losses == (await undisturbed(tmp_path)).losses


async def test_the_gradient_of_cross_entropy_trains_as_cross_entropy(tmp_path: Path) -> None:
    """On the fake backend, whose step then has the same weights: bit for bit, but for the rounding of the sum."""
    fields = {"base_model": "tiny-lm", "optimizer": {"learning_rate": 1e-3}}
    plain = Scene(payload_of(tmp_path, **fields), new_backend=FakeBackend)
    custom = Scene(payload_of(tmp_path, **fields, objective={"name": "ordinary"}), new_backend=FakeBackend)
    await plain.drive()
    await custom.drive()

    assert custom.losses == pytest.approx(plain.losses, rel=1e-12)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (lambda data, logprobs: 1 / 0, "ZeroDivisionError"),
        (lambda data, logprobs: (0.0, [], {}), "array for each"),
        (lambda data, logprobs: (0.0, [p * np.nan for p in logprobs], {}), "NaN"),
    ],
)
async def test_a_wrong_objective_fails_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Any, named: str
) -> None:
    """With its name, and before its step is sent."""
    monkeypatch.setattr(objectives, "BUILT_IN", {"wrong": wrong})
    scene = Scene(payload_of(tmp_path, objective={"name": "wrong"}))
    with pytest.raises(InvalidJob, match=named):
        await scene.drive()
    assert scene.newest_applied() == []


async def test_a_backend_without_forward_passes_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As unsupported."""
    from crucible.training import LiveRun
    from tests.integration.training.service import ServiceRun

    monkeypatch.setattr(ServiceRun, "prepare_forward", LiveRun.prepare_forward)
    with pytest.raises(Unsupported, match="forward"):
        await Scene(curved_payload(tmp_path)).drive()
