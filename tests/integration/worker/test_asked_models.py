"""Models that an environment asks: by name, of another job, refused where they are wrong; and self-play."""

import asyncio
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible.environments import ChatModelFailed, Environment
from crucible.errors import BackendUnavailable
from crucible.prompt import Message
from crucible.testing import EnvironmentContract
from nsai_work import Job, JobHandle, submit
from nsai_work.errors import InvalidJob
from nsai_work.testing import isolated_store, run_jobs
from nsai_work.training.rollouts.episodes.environment_calls import called

EXAMPLE = Path(__file__).parents[3] / "examples" / "nim.py"
TINY: dict[str, Any] = {
    "method": "rl",
    "base_model": "tiny-lm",
    "groups_per_step": 1,
    "group_size": 2,
    "max_steps": 2,
    "sampling": {"max_tokens": 1},
    "advantage": {"drop_constant": False},
    "lora": {"rank": 4},
}


def nim(**settings: Any) -> Environment:
    """The environment of the example."""
    found = sys.modules["nim"].Nim(settings)
    assert isinstance(found, Environment)
    return found


@pytest.fixture(autouse=True)
def _allowed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    spec = importlib.util.spec_from_file_location("nim", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "nim", module)
    spec.loader.exec_module(module)
    with isolated_store(python_allow="nim"):
        yield


class TestSelfPlay(EnvironmentContract):
    """Two members of a group share a game."""

    group_size = 4

    @pytest.fixture
    def environment(self) -> Environment:
        return nim()


class TestDuel(EnvironmentContract):
    """Each member plays against another model."""

    @pytest.fixture
    def environment(self) -> Environment:
        return nim(opponent=True)


def run(environment: dict[str, Any], **fields: Any) -> JobHandle:
    """Submit a small job and run it."""
    payload = {**TINY, **fields, "environment": {"name": "nim:Nim", **environment}}
    handle = submit(Job.parse({"kind": "training_step", "backend": "fake", "payload": payload}))
    run_jobs()
    assert handle.job().status == "succeeded", handle.job().error
    return handle


def test_members_of_a_group_play_one_game() -> None:
    """In turns, to the same end."""
    handle = run({"args": {"games": 1}})
    first, second = handle.rollouts(step=1)
    assert first.reason == second.reason == "done"
    assert abs(first.turns - second.turns) <= 1


def test_an_opponent_is_a_base_model_or_that_of_another_job() -> None:
    """Equal jobs have equal games; the model of the other job is waited for, read and pinned."""
    args = {"games": 1, "opponent": True}
    one, other = (run({"args": args, "models": {"opponent": "tiny-lm"}}, seed=3) for _ in range(2))
    assert [step.metrics for step in one.steps()] == [step.metrics for step in other.steps()]

    evaluated = {"name": "nim:Nim", "args": args, "models": {"opponent": {"job": other.id}}}
    against = run(
        {"args": args, "models": {"opponent": {"job": one.id}}},
        eval={"every": 2, "tasks": [{"environment": evaluated, "limit": 1}]},
    )
    assert set(against.job().constraints.depends_on) == {one.id, other.id}
    [read] = [event.data["fields"] for event in against.events() if event.name == "job.read"]
    assert read["payload.environment.models.opponent"]["step"] == 2
    assert read["payload.eval.tasks[0].environment.models.opponent"]["job"] == other.id


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"args": {"opponent": True}}, "environment.models: opponent is missing; the environment asks opponent"),
        ({"models": {"opponent": "tiny-lm"}}, "asks no models"),
        ({"args": {"opponent": True}, "models": {"oponent": "tiny-lm"}}, "did you mean opponent?"),
        ({"args": {"opponent": True}, "models": {"opponent": "tiny-ml"}}, "payload.environment.models.opponent"),
        ({"args": {"opponent": True}, "models": {"opponent": ""}}, "payload.environment.models.opponent"),
        ({"args": {"opponent": True}, "models": {"opponent": {"job": "nobody"}}}, "there is no job 'nobody'"),
    ],
)
def test_wrong_models_are_refused_at_submit(environment: dict[str, Any], message: str) -> None:
    """With the names that the environment asks."""
    with pytest.raises(InvalidJob) as refused:
        run(environment)
    assert message in refused.value.message


@pytest.mark.parametrize("model", ["tiny-ml", {"job": "nobody"}])
def test_wrong_models_of_an_evaluation_are_refused_at_submit(model: object) -> None:
    """With their place."""
    evaluated = {"name": "nim:Nim", "args": {"opponent": True}, "models": {"opponent": model}}
    with pytest.raises(InvalidJob, match=r"payload\.eval\.tasks\[0\]\.environment\.models\.opponent"):
        run({}, eval={"every": 2, "tasks": [{"environment": evaluated}]})


def test_a_reward_function_asks_no_models(tmp_path: Path) -> None:
    """It is refused, rather than ignored."""
    payload = {**TINY, "data": {"path": str(tmp_path)}, "environment": {"reward": "nim:Nim", "models": {"a": "b"}}}
    with pytest.raises(InvalidJob, match="a reward function asks none"):
        Job.parse({"kind": "training_step", "backend": "fake", "payload": payload})


def test_a_failed_service_is_not_the_environments_fault() -> None:
    """Its error reaches the driver as that of any request, so that the job waits, and no rollout is lost."""
    error = BackendUnavailable("busy", backend="fake")

    async def step() -> Message:
        raise ChatModelFailed(error)

    with pytest.raises(BackendUnavailable) as raised:
        asyncio.run(called(step, 10.0, "a limit"))
    assert raised.value is error
