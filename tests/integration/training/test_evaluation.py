"""Evaluations in the middle of a run: at their steps, the same after any death, and able to stop the run."""

import asyncio
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible.training import IntentKind
from nsai_work.client.validation.data_check import DataCheck
from nsai_work.concurrency.control import Control, StopReason
from nsai_work.data.dataset import load_data
from nsai_work.data.example import Example
from nsai_work.data.held_out import is_held_out, split_sources
from nsai_work.errors import HandOver, InvalidJob, ResumeUnproven
from nsai_work.payloads import TrainingData
from nsai_work.training import evaluation
from tests.integration.training.harness import DISTANCES, STEPS, Killed, Reaper, Scene, payload_of, write_data
from tests.integration.training.service import Model, Service

pytestmark = pytest.mark.anyio

SERVICES: Mapping[str, dict[str, Any]] = {
    "replays": {},
    "repeats": {"replays": False},
    "dies with its client": {"attachable": False},
    "orders": {"orders": True},
}


@pytest.fixture(autouse=True)
def small_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several passes an evaluation, so that a death between them is possible."""
    monkeypatch.setattr(evaluation, "ROWS_PER_PASS", 2)


def evaluated(folder: Path, **fields: Any) -> Any:
    """A small job with evaluations on three passes of other examples."""
    (folder / "held-out").mkdir(exist_ok=True)
    spec = {"every": 3, "data": {"path": str(write_data(folder / "held-out", examples=5))}}
    return payload_of(folder, **{"eval": spec} | fields)


def values(scene: Scene) -> list[tuple[int, dict[str, float]]]:
    """The evaluations that count."""
    return [(record.step, record.metrics) for record in scene.journal.evaluations]


async def undisturbed(folder: Path, **fields: Any) -> Scene:
    """The run that nothing happened to."""
    scene = Scene(evaluated(folder, **fields))
    await scene.drive()
    return scene


def check_equal(scene: Scene, alone: Scene) -> None:
    """Same losses and evaluations, each once, and each evaluation right behind its step."""
    scene.check_complete(len(alone.losses))
    assert scene.losses == alone.losses
    assert values(scene) == values(alone)
    for run in scene.journal.runs:
        ours = [i for key, i in sorted(scene.journal.intents.items()) if key[0] == run.generation]
        for before, intent in pairwise(ours):
            if intent.kind is IntentKind.FORWARD:
                assert before.step == intent.step


async def test_evaluations_are_at_0_every_n_and_the_end(tmp_path: Path) -> None:
    """Their losses are weighted means over the whole set, whatever the passes; the result tells them."""
    scene = Scene(evaluated(tmp_path))
    result = await scene.drive()

    assert [step for step, _ in values(scene)] == [0, 3, 6, 7]
    assert [(each.rows, each.tokens > 0) for each in scene.journal.evaluations] == [(5, True)] * 4
    assert result["evaluations"] == 4
    assert result["eval_loss"] == values(scene)[-1][1]["eval.loss"]
    assert result["first_eval_loss"] == values(scene)[0][1]["eval.loss"]
    assert result["best_eval_loss"] == min(each["eval.loss"] for _, each in values(scene))
    assert "stopped" not in result
    assert [each["step"] for each in scene.journal.events_named("evaluation")] == [0, 3, 6, 7]


async def test_the_passes_do_not_change_the_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does an evaluation change the training."""
    scene = await undisturbed(tmp_path)
    monkeypatch.setattr(evaluation, "ROWS_PER_PASS", 64)
    whole = await undisturbed(tmp_path)
    plain = Scene(payload_of(tmp_path))
    await plain.drive()

    for (_, one), (_, other) in zip(values(scene), values(whole), strict=True):
        assert one["eval.loss"] == pytest.approx(other["eval.loss"], rel=1e-12)
    assert scene.losses == whole.losses == plain.losses


@pytest.mark.parametrize("kind", SERVICES)
@pytest.mark.parametrize("distance", DISTANCES)
async def test_killed_at_every_point(tmp_path: Path, kind: str, distance: int) -> None:
    """Between the passes of an evaluation too."""
    alone = await undisturbed(tmp_path)
    reaper = Reaper()
    await Scene(evaluated(tmp_path), Service(**SERVICES[kind])).drive(reaper=reaper)
    for kill_at in range(1, reaper.contacts + 1, distance):
        scene = Scene(evaluated(tmp_path), Service(**SERVICES[kind]))
        await scene.survive([kill_at])
        check_equal(scene, alone)
        if kind == "replays":
            assert len(scene.journal.runs) == 1
            assert scene.newest_applied() == list(range(1, STEPS + 1))


@settings(max_examples=12, derandomize=True)
@given(
    kills=st.lists(st.integers(1, 90), max_size=8),
    kind=st.sampled_from(sorted(SERVICES)),
    depth=st.integers(1, 4),
    every=st.integers(1, 8),
    save_every=st.integers(1, 4),
    stops=st.booleans(),
)
async def test_killed_again_and_again(
    tmp_path_factory: pytest.TempPathFactory,
    kills: list[int],
    kind: str,
    depth: int,
    every: int,
    save_every: int,
    stops: bool,
) -> None:
    """Any number of deaths at any points, with and without a stop in the middle."""
    folder = tmp_path_factory.mktemp("data")
    spec = evaluated(folder).eval.model_copy(update={"every": every}).model_dump(mode="json", exclude_none=True)
    fields: dict[str, Any] = {
        "eval": spec,
        "pipeline_depth": depth,
        "checkpoint_policy": {"save_every": save_every, "keep_last": 1, "best_metric": "eval.loss"},
        "early_stopping": {"patience": 2, "min_delta": 100.0} if stops else None,
    }
    alone = await undisturbed(folder, **fields)
    scene = Scene(evaluated(folder, **fields), Service(**SERVICES[kind]))
    result = await scene.survive(kills)
    check_equal(scene, alone)
    assert not scene.journal.events_named("evaluation.differs")
    if stops:
        assert result["steps"] == min(2 * every, STEPS)


async def test_a_shutdown_waits_for_the_pass_that_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a step: the evaluation is recorded, and the next owner has nothing to repeat."""
    scene, control = Scene(evaluated(tmp_path, pipeline_depth=1)), Control()
    # the score is computed in a thread, for which turns of the loop are no time
    monkeypatch.setattr(scene, "sleep", asyncio.sleep)

    def stop(event: str, details: dict[str, Any]) -> None:
        intent = details.get("intent")
        if event == "result" and intent is not None and (intent.step, intent.name) == (3, "eval-0002"):
            control.stop(StopReason.SHUTDOWN)

    scene.service.hook = stop
    with pytest.raises(HandOver):
        await scene.drive(control=control)
    assert [record.step for record in scene.journal.evaluations] == [0, 3]
    assert not (await scene.journal.claim().load()).open_intents


@pytest.mark.parametrize(("depth", "save_every"), [(1, 2), (4, 2), (1, 4), (4, 100)])
async def test_nothing_is_sent_past_an_evaluation_that_stops(tmp_path: Path, depth: int, save_every: int) -> None:
    """The run ends at the step, with its state and its model saved, also where none was due, and says why."""
    policy = {"patience": 2, "min_delta": 100.0}
    saves = {"save_every": save_every}
    payload = evaluated(tmp_path, early_stopping=policy, pipeline_depth=depth, checkpoint_policy=saves)
    scene = Scene(payload)
    result = await scene.drive()

    assert scene.newest_applied() == [1, 2, 3, 4, 5, 6]
    assert result["steps"] == 6
    assert str(result["stopped"]).startswith("early_stopping at step 6: eval.loss was not better than")
    [final] = [row for row in scene.journal.checkpoints.values() if row.final]
    assert (final.step, final.sampler_path) == (6, result["model"])
    assert await scene.drive() == result


async def test_the_best_checkpoint_is_that_of_the_best_evaluation(tmp_path: Path) -> None:
    """Every evaluated step is saved and compared by its evaluation; others have no metric, and that is no fault."""
    policy = {"save_every": 2, "keep_last": 9, "best_metric": "eval.loss", "best_mode": "min"}
    scene = Scene(evaluated(tmp_path, checkpoint_policy=policy))
    result = await scene.drive()

    known = dict(values(scene))
    metrics = {row.step: row.metric for row in scene.journal.checkpoints.values()}
    assert metrics == {step: known[step]["eval.loss"] if step in known else None for step in (2, 3, 4, 6, 7)}
    assert "missing_metric" not in result
    assert not scene.journal.events_named("checkpoint.metric_missing")


async def test_a_repeated_evaluation_that_differs_is_told(tmp_path: Path) -> None:
    """After a restore: the run is not exact then, and by policy stops."""
    for on_cold in ("continue", "stop"):
        recovery = {"enabled": True, "poll_interval_ms": 10, "on_cold_optimizer": on_cold}
        scene = Scene(evaluated(tmp_path, recovery=recovery), Service(replays=False))
        service = scene.service
        with pytest.raises(Killed):
            await scene.drive(reaper=Reaper(when=lambda s=service: s.runs and s.newest.applied == [1, 2, 3, 4]))
        [at_3] = [record for record in scene.journal.evaluations if record.step == 3]
        scene.journal.evaluations[-1] = at_3.model_copy(update={"metrics": {"eval.loss": 0.5}})
        if on_cold == "stop":
            with pytest.raises(ResumeUnproven):
                await scene.drive()
        else:
            assert (await scene.drive())["resume"] == "cold"
        [event] = scene.journal.events_named("evaluation.differs")
        assert (event["step"], event["expected"]) == (3, {"eval.loss": 0.5})


async def test_a_split_is_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows in any order and layout, evaluated and never trained on."""
    (tmp_path / "rows").mkdir()
    path = write_data(tmp_path / "rows", 40)
    scene = Scene(payload_of(tmp_path, eval={"split": 0.3}, data={"path": str(path)}, max_steps=None, epochs=1))
    trained: list[Any] = []
    step = Model.step
    monkeypatch.setattr(
        Model, "step", lambda self, batch, optimizer: trained.extend(batch) or step(self, batch, optimizer)
    )
    await scene.drive()

    rows = path.read_text().splitlines()
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(json.loads(row), sort_keys=True) + "\n\n" for row in reversed(rows)))
    contents = []
    for name in (path, other):
        examples = load_data(TrainingData(path=str(name))).examples
        [training], [held_out] = split_sources([examples], 0.3)
        contents.append([{str(examples[index].content) for index in each} for each in (training, held_out)])
    assert contents[0] == contents[1]
    assert scene.journal.evaluations[0].rows == len(contents[0][1]) == 40 - len(trained)


async def test_a_mixture_is_split_by_the_content_of_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that two sources have is on one side; the sources keep their weights."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    sources = [
        {"path": str(write_data(tmp_path / "first", 30))},
        {"path": str(write_data(tmp_path / "second", 20))},
    ]
    payload = payload_of(tmp_path, eval={"split": 0.3}, data={"sources": sources}, max_steps=40)
    scene = Scene(payload)
    trained: list[Any] = []
    step = Model.step
    monkeypatch.setattr(
        Model, "step", lambda self, batch, optimizer: trained.extend(batch) or step(self, batch, optimizer)
    )
    result = await scene.drive()

    examples = [load_data(payload.data, index).examples for index in range(2)]
    training, held_out = split_sources(examples, 0.3)
    evaluated = {str(examples[source][index].content) for source in range(2) for index in held_out[source]}
    left = {str(examples[source][index].content) for source in range(2) for index in training[source]}
    assert evaluated.isdisjoint(left)
    count = sum(map(len, held_out))
    assert scene.journal.evaluations[0].rows == count > len(evaluated) > 0
    assert len({tuple(datum.tokens) for datum in trained}) == len(left)
    assert result["overlapping_rows"] == 0


async def test_held_out_rows_that_are_trained_on_too_are_counted(tmp_path: Path) -> None:
    """By an event and in the result, whatever their layout."""
    (tmp_path / "held-out").mkdir()
    own = [json.loads(line) for line in write_data(tmp_path / "held-out", 12).read_text().splitlines()]
    file = tmp_path / "held-out" / "other.jsonl"
    file.write_text("".join(json.dumps(row, sort_keys=True) + "\n\n" for row in reversed(own)))
    # the training data are the first ten of these rows
    scene = Scene(payload_of(tmp_path, eval={"data": {"path": str(file)}}))
    result = await scene.drive()

    assert result["overlapping_rows"] == 10
    assert scene.journal.events_named("training.overlap") == [{"rows": 10, "of": 12}]
    (tmp_path / "held-out" / "new.jsonl").write_text(json.dumps({"text": "new"}) + "\n")
    apart = Scene(payload_of(tmp_path, eval={"data": {"path": str(tmp_path / "held-out" / "new.jsonl")}}))
    assert (await apart.drive())["overlapping_rows"] == 0
    assert apart.journal.events_named("training.overlap") == []


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (1e-9, "for evaluation of the 12 in the data"),
        (0.5, r"for training of the 2 in payload\.data\.sources\[1\]"),
    ],
)
def test_a_split_that_leaves_nothing_of_a_source_is_refused(tmp_path: Path, split: float, message: str) -> None:
    """Of any source to train on, or of all to evaluate."""
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    held = [n for n in range(500) if is_held_out(Example(f"Text {n}"), 0.5)]
    others = [n for n in range(500) if not is_held_out(Example(f"Text {n}"), 0.5)]
    first.write_text("".join(json.dumps({"text": f"Text {n}"}) + "\n" for n in (*held[2:7], *others[:5])))
    second.write_text("".join(json.dumps({"text": f"Text {n}"}) + "\n" for n in held[:2]))
    data = {"sources": [{"path": str(first)}, {"path": str(second)}]}
    payload = payload_of(tmp_path, eval={"split": split}, data=data)
    with pytest.raises(InvalidJob, match=rf"payload.eval.split: .* leaves no example {message}"):
        evaluation.pin_examples(payload.data, payload.eval)


@pytest.mark.parametrize("split", [1e-9, 1 - 1e-9])
def test_a_split_that_leaves_nothing_is_refused(tmp_path: Path, split: float) -> None:
    """On either side."""
    payload = payload_of(tmp_path, eval={"split": split})
    with pytest.raises(InvalidJob, match=r"payload.eval.split: .* leaves no example"):
        evaluation.pin_examples(payload.data, payload.eval)


def test_a_bad_evaluation_file_is_named_by_its_own_field(tmp_path: Path) -> None:
    """Not by that of the training data."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": []}\n')
    payload = payload_of(tmp_path, eval={"data": {"path": str(bad)}})
    with pytest.raises(InvalidJob, match=r"payload.eval.data.path: .*line 1"):
        DataCheck().read([("job", payload)])
