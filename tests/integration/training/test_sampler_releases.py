"""Weights for sampling are deleted behind the run, in order, and never while they are in use or still needed."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from backends.fake import FakeBackend
from crucible.token_sampler import SamplingSpec, TokenSample, TokenSampler
from tests.integration.training.harness import Reaper, Scene
from tests.integration.training.test_reinforcement import outcome, rl_payload

pytestmark = pytest.mark.anyio

LETTERS: dict[str, Any] = {"name": "tests.games:Letters", "args": {"letters": "ab"}}


@dataclass
class Watch:
    """What all owners of a job have done with its weights, and what must not have happened."""

    used: Counter[str] = field(default_factory=Counter)
    deleted: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    kept: set[int] = field(default_factory=set)
    held_step: int | None = None
    """The step whose weights never answer a rollout that would be trained on."""
    scene: Scene | None = None

    def use(self, path: str) -> None:
        """Weights are opened, or sampled from."""
        assert self.scene is not None
        if path in self.deleted:
            self.faults.append(f"{path} is used after it was deleted")
        self.kept.add(len(self.scene.journal.policies))


class WatchedSampler(TokenSampler):
    """A sampler that notes its requests."""

    def __init__(self, sampler: TokenSampler, path: str, watch: Watch) -> None:
        self._sampler, self._path, self._watch = sampler, path, watch

    @property
    def ref(self) -> Any:
        return self._sampler.ref

    async def sample(
        self, tokens: Sequence[int], n: int, settings: SamplingSpec, *, seed: int, key: int
    ) -> Sequence[TokenSample]:
        self._watch.use(self._path)
        self._watch.used[self._path] += 1
        try:
            if (
                self._path.endswith("-policy")
                and step_of(self._path) == self._watch.held_step
                and settings.temperature
            ):
                await asyncio.Event().wait()
            return await self._sampler.sample(tokens, n, settings, seed=seed, key=key)
        finally:
            self._watch.used[self._path] -= 1


class Watched(FakeBackend):
    """The fake backend under watch."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    async def sampler(self, model: str) -> TokenSampler:
        self._watch.use(model)
        return WatchedSampler(await super().sampler(model), model, self._watch)

    async def delete_checkpoint(self, path: str) -> None:
        if self._watch.used[path]:
            self._watch.faults.append(f"{path} is deleted while {self._watch.used[path]} samples are under way")
        self._watch.deleted.append(path)
        await super().delete_checkpoint(path)


def watched(payload: Any) -> tuple[Scene, Watch]:
    """A job whose owners are watched."""
    watch = Watch()
    scene = Scene(payload, new_backend=lambda: Watched(watch))
    watch.scene = scene
    return scene, watch


def require_clean(watch: Watch, most: int) -> None:
    """Nothing was deleted in use, all that was used is deleted, and at most so many were kept at a time."""
    assert watch.scene is not None
    assert watch.faults == []
    assert watch.used
    assert {path for path in watch.used if path.endswith("-policy")} <= set(watch.deleted)
    assert not watch.scene.journal.policies
    assert max(watch.kept) <= most


FIELDS: dict[str, dict[str, Any]] = {
    "sync": {},
    "ahead": {"steps_ahead": 2},
    "ahead-substeps": {"steps_ahead": 2, "substeps": 2},
    "ahead-evaluated": {"steps_ahead": 2, "eval": {"every": 3, "tasks": [{"environment": LETTERS, "limit": 2}]}},
}


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
async def test_weights_are_deleted_behind_the_run(fields: dict[str, Any]) -> None:
    """In the order of their steps, and over deaths at any point: what is needed again is still there."""
    payload = rl_payload(**{"max_steps": 6, "environment": {"name": "tests.games:Guess"}, **fields})
    alone, watch = watched(payload)
    counted = Reaper()
    await alone.drive(reaper=counted)
    # those that the coming rounds are sampled from, one that is saved ahead, and one that is evaluated
    most = int(fields.get("steps_ahead", 0)) + 3
    require_clean(watch, most)
    steps = [step_of(path) for path in watch.deleted if path.endswith("-policy")]
    assert steps == sorted(steps)
    assert len(steps) == len(set(steps))
    for kill_at in range(7, counted.contacts, counted.contacts // 2):
        scene, watch = watched(payload)
        await scene.survive([kill_at, kill_at // 2 + 5])
        assert outcome(scene) == outcome(alone), kill_at
        # an owner that dies leaves at most what it was about to delete, to its expiry
        assert watch.faults == [], kill_at
        assert not scene.journal.policies


def step_of(path: str) -> int:
    """The step in the name of weights."""

    return int(path.removesuffix("-policy").rsplit("-s", 1)[-1])


@pytest.mark.parametrize("ahead", [0, 2])
async def test_what_an_early_stop_leaves_unused_is_said(ahead: int) -> None:
    """Rollouts of the steps behind it may be sampled by then: none of them from weights that are gone, and the
    result counts them."""
    stop = {"metric": "eval.reward", "mode": "max", "patience": 2, "min_delta": 2.0}
    evaluation = {"every": 1, "tasks": [{"environment": LETTERS, "limit": 2}]}
    payload = rl_payload(environment=LETTERS, eval=evaluation, early_stopping=stop, max_steps=9, steps_ahead=ahead)
    alone, watch = watched(payload)
    counted = Reaper()
    result = await alone.drive(reaper=counted)
    assert result["steps"] == 2
    require_clean(watch, ahead + 4)
    assert unused(alone) == (result["rollouts_unused"], result["turns_unused"])
    if ahead:
        assert result["rollouts_unused"] > 0
    for kill_at in range(9, counted.contacts, counted.contacts // 2):
        scene, watch = watched(payload)
        again = await scene.survive([kill_at])
        assert unused(scene) == (again["rollouts_unused"], again["turns_unused"]), kill_at
        assert watch.faults == [], kill_at
        assert scene.losses == alone.losses, kill_at


async def test_an_early_stop_ends_sampling_before_the_weights_are_deleted() -> None:
    """Samples of the next step are under way when the evaluation ends the run."""
    stop = {"metric": "eval.reward", "mode": "max", "patience": 2, "min_delta": 2.0}
    evaluation = {"every": 1, "tasks": [{"environment": LETTERS, "limit": 2}]}
    scene, watch = watched(rl_payload(eval=evaluation, early_stopping=stop, max_steps=9))
    watch.held_step = 2
    result = await scene.drive()
    assert result["steps"] == 2
    assert (result["rollouts_unused"], result["turns_unused"]) == (0, 0)
    require_clean(watch, 4)


def unused(scene: Scene) -> tuple[int, int]:
    """The rollouts and the turns of steps that were not trained."""
    rollouts = [one for one in scene.journal.rollouts.values() if one.step > len(scene.journal.steps)]
    return len(rollouts), len([one for one in scene.journal.turns.values() if one.step > len(scene.journal.steps)])


async def test_a_run_to_its_end_leaves_nothing_unused() -> None:
    """With early stopping that does not come."""
    stop = {"metric": "eval.reward", "mode": "max", "patience": 9}
    evaluation = {"every": 1, "tasks": [{"environment": LETTERS, "limit": 1}]}
    scene, _ = watched(rl_payload(environment=LETTERS, eval=evaluation, early_stopping=stop, steps_ahead=2))
    result = await scene.drive()
    assert (result["rollouts_unused"], result["turns_unused"]) == (0, 0)
