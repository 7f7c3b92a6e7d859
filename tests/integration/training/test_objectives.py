"""Steps whose loss the driver computes: forward passes in the middle of a run, killed anywhere."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.fake import FakeBackend
from crucible.errors import CommandMissing, Unsupported
from crucible.training import Datum, ForwardResult, IntentKind
from nsai_work.errors import InvalidJob
from nsai_work.payloads import ObjectiveSpec
from nsai_work.training import objectives
from tests.integration.training.harness import DISTANCES, STEPS, Killed, Reaper, Scene, payload_of
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
@pytest.mark.parametrize("distance", DISTANCES)
async def test_killed_at_every_point(tmp_path: Path, service: dict[str, Any], distance: int) -> None:
    """Between a forward pass and its step too: a takeover repeats the pass, and comes to the same step."""
    alone = await undisturbed(tmp_path)
    reaper = Reaper()
    await Scene(curved_payload(tmp_path), Service(**service)).drive(reaper=reaper)
    for kill_at in range(1, reaper.contacts + 1, distance):
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


async def test_a_function_of_a_module_is_an_objective(tmp_path: Path) -> None:
    """Of one that may be imported; the losses are those of the same function under a name of its own."""
    alone = await undisturbed(tmp_path)
    target = f"{__name__}:curved"
    scene = Scene(payload_of(tmp_path, objective={"name": target, "settings": {"scale": 0.5}}))
    await scene.drive()
    assert scene.losses == alone.losses


WRONG = {
    "a module that may not be imported": ("json:dumps", CommandMissing, "NSAI_WORK_PYTHON_ALLOW"),
    "no such function": ("tests.functions:nothing_here", InvalidJob, r"payload\.objective\.name: 'tests"),
    "no function": (f"{__name__}:WRONG", InvalidJob, "must name a function"),
    "no name": ("a b", InvalidJob, "package.module:function"),
}


@pytest.mark.parametrize(("name", "kind", "text"), WRONG.values(), ids=WRONG)
def test_a_function_that_is_not_there_is_refused(name: str, kind: type[Exception], text: str) -> None:
    """By its field."""
    with pytest.raises(kind, match=text):
        objectives.Objective(ObjectiveSpec(name=name), allow=["tests"])


async def test_the_page_on_objectives_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its function has the gradient of its loss, and trains."""
    page = (Path(__file__).parents[3] / "docs" / "howto" / "write-an-objective.md").read_text()
    (tmp_path / "losses.py").write_text(page.partition("```python\n")[2].partition("```")[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    found = objectives.Objective(ObjectiveSpec(name="losses:focal", settings={"gamma": 1.5}), allow=["losses"])
    datum = Datum([1, 2, 3], {"target_tokens": [2, 3, 4], "weights": [0.0, 1.0, 2.0]})
    logprobs = [-0.5, -0.7, -1.9]
    value = found.evaluate([datum], ForwardResult([logprobs]))
    for place in range(3):
        moved = [each + 1e-6 * (index == place) for index, each in enumerate(logprobs)]
        slope = (found.evaluate([datum], ForwardResult([moved])).loss - value.loss) / 1e-6
        assert -value.batch[0].loss_inputs["weights"][place] == pytest.approx(slope, abs=1e-5)
