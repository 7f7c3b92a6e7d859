"""Evaluation of reinforcement learning on tasks: greedy rollouts, journaled, and exact under kills."""

from pathlib import Path
from typing import Any

import pytest

from backends.fake import FakeBackend
from backends.tinkex.backend import TinkexBackend
from backends.tinkex_dev.server import DevServer
from crucible.training import IntentKind
from nsai_work.errors import InvalidJob
from nsai_work.journal import EvaluationRecord
from tests.integration.training.harness import Killed, Reaper, Scene
from tests.integration.training.test_reinforcement import outcome, rl_payload

pytestmark = pytest.mark.anyio

LETTERS: dict[str, Any] = {"name": "tests.games:Letters", "args": {"letters": "abc"}}
EVAL: dict[str, Any] = {"every": 2, "tasks": [{"environment": LETTERS, "limit": 2}]}


def evaluations(scene: Scene) -> list[tuple[int, dict[str, float], int, int]]:
    """What the evaluations of a run gave."""
    return [(one.step, one.metrics, one.rows, one.tokens) for one in scene.journal.evaluations]


async def test_the_weights_before_between_and_after_are_evaluated() -> None:
    """At step 0, every two steps and at the end, on the tasks up to the limit; the rollouts are not trained on, and
    the weights that they come from are deleted behind the run."""
    scene = Scene(rl_payload(eval=EVAL), new_backend=FakeBackend)
    result = await scene.drive()
    assert [(one.step, one.rows) for one in scene.journal.evaluations] == [(0, 2), (2, 2), (3, 2)]
    for one in scene.journal.evaluations:
        assert {"eval.reward", "eval.reward_std", "eval.rollouts_failed", "eval.env.length"} <= one.metrics.keys()
    assert {record.step for record in scene.journal.rollouts.values()} == {1, 2, 3}
    evaluated = sorted((one.step, one.group, one.task) for one in scene.journal.evaluated_rollouts.values())
    assert evaluated == [(step, task, task) for step in (0, 2, 3) for task in (0, 1)]
    last = scene.journal.evaluations[-1]
    assert result["eval_reward"] == last.metrics["eval.reward"]
    assert result["evaluations"] == 3
    assert not scene.journal.policies, "they are deleted behind the run"


async def test_training_is_that_of_a_run_without_evaluation() -> None:
    """Looking changes nothing."""
    with_it, without = (
        Scene(rl_payload(eval=EVAL), new_backend=FakeBackend),
        Scene(rl_payload(), new_backend=FakeBackend),
    )
    await with_it.drive()
    await without.drive()
    assert outcome(with_it) == outcome(without)


async def test_greedy_answers_of_equal_weights_are_equal() -> None:
    """Two jobs with other seeds evaluate the base model alike."""
    first, second = (Scene(rl_payload(eval=EVAL, seed=seed), new_backend=FakeBackend) for seed in (1, 2))
    await first.drive()
    await second.drive()
    assert evaluations(first)[0] == evaluations(second)[0]


@pytest.mark.parametrize(
    "fields", [{}, {"steps_ahead": 1}, {"substeps": 2, "max_steps": 4}], ids=["sync", "ahead", "substeps"]
)
async def test_killed_at_every_point(fields: dict[str, Any]) -> None:
    """While an evaluation is sampled, recorded or followed by a save: it ends as one that was left alone."""
    payload = rl_payload(
        eval=EVAL, checkpoint_policy={"save_every": 2, "best_metric": "eval.reward", "best_mode": "max"}, **fields
    )
    alone, counted = Scene(payload, new_backend=FakeBackend), Reaper()
    first = await alone.drive(reaper=counted)
    for kill_at in range(1, counted.contacts + 1, counted.contacts // 11):
        scene = Scene(payload, new_backend=FakeBackend)
        second = await scene.survive([kill_at, kill_at // 2 + 3])
        assert outcome(scene) == outcome(alone), kill_at
        assert evaluations(scene) == evaluations(alone), kill_at
        assert second["best_eval_step"] == first["best_eval_step"]


async def test_a_restored_run_evaluates_from_the_journal(tmp_path: Path) -> None:
    """On the dev server: no turn of an evaluation that is in the journal is sampled twice."""
    with DevServer(tmp_path / "server", seed=0, hold_s=2.0) as server:

        def new_backend() -> TinkexBackend:
            return TinkexBackend({"base_url": server.url, "api_key": "tml-dev"})

        payload = rl_payload(eval=EVAL, checkpoint_policy={"save_every": 1})
        alone, counted = Scene(payload, new_backend=new_backend), Reaper()
        await alone.drive(reaper=counted)
        before = len([entry for entry in server.log(kind="sample") if not entry["replayed"]])
        assert before == len(alone.journal.turns) + len(alone.journal.evaluated_turns)
        scene = Scene(payload, new_backend=new_backend)
        for kill_at in (40, 30):
            with pytest.raises(Killed):
                await scene.drive(kill_at=kill_at)
        server.fault(kind="lose_model", model_id=scene.journal.runs[-1].ref.run_id)
        await scene.drive()
        assert outcome(scene) == outcome(alone)
        assert evaluations(scene) == evaluations(alone)
        assert len(scene.journal.evaluated_turns) == len(alone.journal.evaluated_turns)


async def test_early_stopping_by_reward() -> None:
    """Nothing is sent past an evaluation that may stop the run; its end has a state and a model."""
    stop = {"metric": "eval.reward", "mode": "max", "patience": 2, "min_delta": 2.0}
    payload = rl_payload(eval={**EVAL, "every": 1}, early_stopping=stop, max_steps=9)
    alone, counted = Scene(payload, new_backend=FakeBackend), Reaper()
    result = await alone.drive(reaper=counted)
    assert result["steps"] == 2
    assert str(result["stopped"]).startswith("early_stopping at step 2: eval.reward was not better")
    assert str(result["model"])
    for kill_at in range(5, counted.contacts, counted.contacts // 5):
        scene = Scene(payload, new_backend=FakeBackend)
        assert (await scene.survive([kill_at]))["steps"] == 2, kill_at
        assert evaluations(scene) == evaluations(alone), kill_at
        assert scene.losses == alone.losses, kill_at


async def test_several_sets_and_samples() -> None:
    """Each set has its own metrics beside those of all."""
    tasks = [
        {"environment": LETTERS, "limit": 1},
        {"name": "drawn", "environment": "tests.games:Guess", "limit": 2, "samples": 3, "temperature": 1.0},
    ]
    scene = Scene(rl_payload(eval={"every": 3, "tasks": tasks}), new_backend=FakeBackend)
    await scene.drive()
    first = scene.journal.evaluations[0]
    assert first.rows == 1 + 6
    assert {"eval.reward", "eval.Letters.reward", "eval.drawn.reward"} <= first.metrics.keys()
    mean = (first.metrics["eval.Letters.reward"] + 6 * first.metrics["eval.drawn.reward"]) / 7
    assert first.metrics["eval.reward"] == pytest.approx(mean)


@pytest.mark.parametrize(("fault", "failed"), [("raises", 2), ("NaN", 2), ("endless", 0)])
async def test_a_faulty_environment_costs_its_rollouts(fault: str, failed: int) -> None:
    """Without any reward there is no mean, and the run goes on."""
    faulty = {"name": "tests.games:Faulty", "args": {"letters": "ab", "fault": fault, "always": True}}
    sampling = {"max_tokens": 3, "limits": {"turns": 2}, "on_error": {"retry": 0}}
    fields = {"eval": {"every": 3, "tasks": [{"environment": faulty}]}, "sampling": sampling}
    scene = Scene(rl_payload(**fields), new_backend=FakeBackend)
    await scene.drive()
    records: list[EvaluationRecord] = scene.journal.evaluations
    assert [one.metrics["eval.rollouts_failed"] for one in records] == [failed, failed]
    assert ("eval.reward" in records[0].metrics) == (failed == 0)


async def test_a_killed_evaluation_is_not_an_operation_of_the_run() -> None:
    """It has no sequence numbers, so that its death leaves no intent open."""
    payload = rl_payload(eval={"every": 100, "tasks": [{"environment": LETTERS}]})
    scene = Scene(payload, new_backend=FakeBackend)
    with pytest.raises(Killed):
        await scene.drive(kill_at=16)
    kinds = {intent.kind for intent in scene.journal.intents.values()}
    assert kinds <= {IntentKind.SAVE_SAMPLER, IntentKind.STEP, IntentKind.SAVE_STATE}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"eval": {"split": 0.1}}, "eval.split: rl is evaluated on tasks"),
        *(
            (
                {"eval": {"data": {"path": "p.jsonl", name: value}}},
                f"eval.data.{name}: a prompt file does not have it",
            )
            for name, value in (
                ("format", "text"),
                ("train_on", "all_tokens"),
                ("on_long", "skip"),
                ("ignore", ["a"]),
            )
        ),
        ({"eval": {"data": {"path": "x.jsonl"}}}, "eval.data: prompts belong to environment.reward"),
        ({"eval": {"every": 3, "tasks": [{"environment": LETTERS}]}, "substeps": 2}, "set a multiple"),
        ({"eval": {"tasks": [{"environment": LETTERS, "samples": 2}]}}, "at temperature 0 all are equal"),
        ({"eval": {"tasks": [{"environment": LETTERS}] * 2}}, "each needs a name of its own"),
        ({"eval": {"tasks": [{"environment": {"reward": "a:b"}}]}}, "its prompts are eval.data"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(fields: dict[str, Any], message: str) -> None:
    """At submit."""
    with pytest.raises(InvalidJob, match=message):
        rl_payload(**fields)
