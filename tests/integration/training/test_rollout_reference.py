"""The reference model of reinforcement learning, several steps a round, and rollouts of earlier runs."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from backends.fake import FakeBackend
from backends.tinkex.backend import TinkexBackend
from backends.tinkex_dev.server import DevServer
from crucible.errors import BackendUnavailable, CrucibleError, RunGone
from crucible.token_sampler import TokenSampler
from nsai_work.client.validation.teacher_check import check_penalty
from nsai_work.errors import InvalidJob
from tests.integration.training.harness import Killed, Reaper, Scene
from tests.integration.training.test_reinforcement import GUESS, outcome, rl_payload

pytestmark = pytest.mark.anyio


async def test_the_first_step_is_at_no_distance_from_the_base_model() -> None:
    """A new adapter changes nothing: only later steps are away from it. The penalty is part of the advantages."""
    scene, free = (Scene(rl_payload(**fields), new_backend=FakeBackend) for fields in ({"kl": {"coef": 5.0}}, {}))
    await scene.drive()
    await free.drive()
    distances = [step.metrics["kl_reference"] for step in scene.journal.steps]
    assert distances[0] == pytest.approx(0.0, abs=1e-6)
    assert max(map(abs, distances[1:])) > 1e-4
    assert scene.losses[1:] != free.losses[1:]
    assert sorted(scene.journal.references) == [1, 2, 3]


@pytest.mark.parametrize(
    "fields",
    [
        {"kl": {"coef": 0.5, "discount": 0.9}},
        {"kl": {"coef": 0.5}, "steps_ahead": 1, "substeps": 2, "max_steps": 5},
        {"substeps": 3, "max_steps": 4, "on_stale": "drop"},
    ],
    ids=["kl", "kl-ahead-substeps", "more-substeps-than-steps"],
)
async def test_killed_at_every_point(fields: dict[str, Any]) -> None:
    """The reference scores each step once, as far as it is in the journal."""
    alone, counted = Scene(rl_payload(**fields), new_backend=FakeBackend), Reaper()
    await alone.drive(reaper=counted)
    for kill_at in range(1, counted.contacts + 1, counted.contacts // 5):
        scene = Scene(rl_payload(**fields), new_backend=FakeBackend)
        await scene.survive([kill_at])
        assert outcome(scene) == outcome(alone), kill_at


class FailingReference(FakeBackend):
    """A backend whose reference fails once, after a few scores. ``closed`` counts the samplers that are closed."""

    def __init__(self, error: CrucibleError) -> None:
        super().__init__()
        self.error: CrucibleError | None = error
        self.closed = 0

    async def sampler(self, model: str) -> TokenSampler:
        opened = await super().sampler(model)
        score, close, scores = opened.score, opened.close, 0

        async def failing(tokens: Sequence[int]) -> Sequence[float]:
            nonlocal scores
            scores += 1
            if self.error is not None and scores == 3:
                error, self.error = self.error, None
                raise error
            return await score(tokens)

        async def counted() -> None:
            self.closed += model == "tiny-lm"
            await close()

        opened.score, opened.close = failing, counted  # type: ignore[method-assign]
        return opened


@pytest.mark.parametrize("error", [BackendUnavailable("away"), RunGone("its session has ended")], ids=str)
async def test_a_reference_that_fails_once_changes_nothing(error: CrucibleError) -> None:
    """It is asked again, anew where its session has ended; each of its samplers is closed."""
    payload, backend = rl_payload(kl={"coef": 0.5}), FailingReference(error)
    alone = Scene(payload, new_backend=FakeBackend)
    await alone.drive()
    scene = Scene(payload, new_backend=lambda: backend)
    await scene.drive()
    assert outcome(scene) == outcome(alone)
    assert len(scene.journal.runs) == 1
    assert backend.closed == (2 if isinstance(error, RunGone) else 1)


async def test_each_newer_field_under_kills_and_restores() -> None:
    """On a backend without a service, which is restored into a new run at every death: a judge that the environment
    asks, a reference, rounds ahead, tasks to evaluate; and rollouts of a lost run sampled anew."""
    fields: dict[str, Any] = {
        "environment": {"name": "tests.games:Judged", "models": {"judge": "tiny-lm"}},
        "kl": {"coef": 0.1},
        "loss_fn": "ppo",
        "substeps": 2,
        "steps_ahead": 1,
        "on_stale": "drop",
        "eval": {"every": 2, "tasks": [{"environment": "tests.games:Letters", "limit": 2}]},
        "max_steps": 6,
    }
    payload = rl_payload(**fields)
    alone, counted = Scene(payload, new_backend=FakeBackend), Reaper()
    await alone.drive(reaper=counted)
    assert len({step.metrics["reward"] for step in alone.journal.steps}) > 1, "the judge tells answers apart"
    for kill_at in range(3, counted.contacts, counted.contacts // 5):
        scene = Scene(payload, new_backend=FakeBackend)
        await scene.survive([kill_at, kill_at // 2 + 5])
        assert outcome(scene) == outcome(alone), kill_at
        assert [(one.step, one.metrics) for one in scene.journal.evaluations] == [
            (one.step, one.metrics) for one in alone.journal.evaluations
        ], kill_at


async def test_the_steps_of_a_round_share_their_rollouts() -> None:
    """They are sampled once, from the weights before the first, and each trains a part."""
    scene = Scene(rl_payload(substeps=2, max_steps=4, pipeline_depth=4), new_backend=FakeBackend)
    await scene.drive()
    assert {(one.step, one.weights_step) for one in scene.journal.rollouts.values()} == {(1, 0), (3, 2)}
    metrics = [step.metrics for step in scene.journal.steps]
    assert [each["staleness"] for each in metrics] == [0, 1, 0, 1]
    assert metrics[0]["reward"] == metrics[1]["reward"]
    sampled = [each["sampled_tokens"] for each in metrics]
    assert metrics[0]["trained_tokens"] + metrics[1]["trained_tokens"] <= sampled[0] == sampled[1]


async def test_distillation_on_the_student_s_own_answers(tmp_path: Path) -> None:
    """Without a reward, the reference alone teaches: the student comes closer to the teacher's weights."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Say a."}\n{"prompt": "Say b."}\n')
    with DevServer(tmp_path / "server", seed=0) as server:

        def new_backend() -> TinkexBackend:
            return TinkexBackend({"base_url": server.url, "api_key": "tml-dev"})

        teacher = Scene(rl_payload(max_steps=4, optimizer={"learning_rate": 0.05}), new_backend=new_backend)
        taught = await teacher.drive()
        student = Scene(
            rl_payload(
                environment=None,
                data={"path": str(prompts)},
                kl={"coef": 1.0, "reference": taught["model"]},
                group_size=8,
                max_steps=10,
                optimizer={"learning_rate": 0.01},
            ),
            new_backend=new_backend,
        )
        await student.drive()
        distances = [step.metrics["kl_reference"] for step in student.journal.steps]
        assert all(step.metrics["reward"] == 0 for step in student.journal.steps)
        assert sum(distances[-3:]) < sum(distances[:3])


def two_files(folder: Path, **fields: Any) -> Any:
    """A job with two files of prompts, each with its teacher, and the greater share for the second."""
    for name in ("first", "second"):
        (folder / f"{name}.jsonl").write_text("".join(f'{{"prompt": "{name} {n}"}}\n' for n in range(3)))
    sources = [
        {"path": str(folder / "first.jsonl"), "teacher": "llama-3.2-1b"},
        {"path": str(folder / "second.jsonl"), "weight": 3.0},
    ]
    settings = {"environment": None, "data": {"sources": sources}, "kl": {"coef": 1.0, "baseline": "none"}}
    settings |= {"groups_per_step": 8, "group_size": 1, "advantage": {"baseline": "none"}}
    return rl_payload(**{**settings, **fields})


async def test_each_file_of_prompts_has_its_teacher(tmp_path: Path) -> None:
    """In its share of the groups. A new adapter is at no distance from the base model, and at one from another; the
    advantages of the first step are the distances themselves. A killed run ends the same."""
    alone, counted = Scene(two_files(tmp_path), new_backend=FakeBackend), Reaper()
    await alone.drive(reaper=counted)
    first = alone.journal.steps[0].metrics
    tasks = [one.task for one in alone.journal.rollouts.values()]

    assert abs(first["kl_reference.0"]) > 1e-3
    assert first["kl_reference.1"] == pytest.approx(0.0, abs=1e-6)
    assert {0, 1, 2} < set(tasks) <= set(range(6))
    assert sum(task < 3 for task in tasks) < sum(task >= 3 for task in tasks)
    for kill_at in range(5, counted.contacts, counted.contacts // 3):
        scene = Scene(two_files(tmp_path), new_backend=FakeBackend)
        await scene.survive([kill_at])
        assert outcome(scene) == outcome(alone), kill_at


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kl": None, "environment": {"reward": "tests.games:even"}},
            r"data.sources\[0\].teacher: it is the reference of kl",
        ),
        ({"max_steps": None, "epochs": 1}, "a mixture has no end"),
    ],
)
def test_bad_files_of_prompts_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """At submit, with their field."""
    with pytest.raises(InvalidJob, match=message):
        two_files(tmp_path, **changes)


async def test_a_teacher_that_is_not_there_is_refused() -> None:
    """By the field that names it."""
    payload: Any = rl_payload(kl={"coef": 1.0, "reference": "nobody"})
    async with FakeBackend() as backend:
        with pytest.raises(InvalidJob, match=r"payload\.kl\.reference"):
            await check_penalty(backend, payload)


@pytest.mark.parametrize("on_stale", ["train", "drop"])
async def test_rollouts_of_a_lost_run(tmp_path: Path, on_stale: str) -> None:
    """They are trained on, or sampled anew, and both ends are equal on a deterministic service."""
    fields: dict[str, Any] = {**GUESS, "on_stale": on_stale, "checkpoint_policy": {"save_every": 1}}
    with DevServer(tmp_path / "server", seed=0, hold_s=2.0) as server:

        def new_backend() -> TinkexBackend:
            return TinkexBackend({"base_url": server.url, "api_key": "tml-dev"})

        alone, counted = Scene(rl_payload(**fields), new_backend=new_backend), Reaper()
        await alone.drive(reaper=counted)
        scene = Scene(rl_payload(**fields), new_backend=new_backend)
        with pytest.raises(Killed):
            await scene.drive(kill_at=counted.contacts * 3 // 5)
        server.fault(kind="lose_model", model_id=scene.journal.runs[-1].ref.run_id)
        await scene.drive()
        assert outcome(scene) == outcome(alone)
        anew = [int(str(event["sampled_anew"])) for event in scene.journal.events_named("training.rollouts_reused")]
        assert (sum(anew) > 0) == (on_stale == "drop")


@pytest.mark.parametrize("fields", [{"steps_ahead": 1}, {"substeps": 2}], ids=["ahead", "substeps"])
async def test_rollouts_whose_weights_are_gone_are_not_dropped(tmp_path: Path, fields: dict[str, Any]) -> None:
    """With the lag, or in the middle of a round, the weights that they came from are deleted: the journal is
    trained on, and that is told."""
    fields = {**GUESS, "on_stale": "drop", "max_steps": 6, "checkpoint_policy": {"save_every": 3}, **fields}
    with DevServer(tmp_path / "server", seed=0, hold_s=2.0) as server:

        def new_backend() -> TinkexBackend:
            return TinkexBackend({"base_url": server.url, "api_key": "tml-dev"})

        alone = Scene(rl_payload(**fields), new_backend=new_backend)
        await alone.drive()
        scene = Scene(rl_payload(**fields), new_backend=new_backend)
        with pytest.raises(Killed):
            await scene.drive(reaper=Reaper(when=lambda: len(scene.journal.steps) >= 5))
        server.fault(kind="lose_model", model_id=scene.journal.runs[-1].ref.run_id)
        await asyncio.wait_for(scene.drive(), 120)
        assert scene.journal.runs[-1].from_step == 3
        assert outcome(scene) == outcome(alone)
        kept = {
            event["step"]: event["rollouts"] for event in scene.journal.events_named("training.rollouts_reused")
        }
        assert kept[4 if "steps_ahead" in fields else 3] == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"environment": None}, "environment: set it; only with kl"),
        ({"environment": None, "kl": {"coef": 1}}, "environment: set it; only with kl"),
        ({"kl": {"coef": 0}}, "kl.coef"),
        ({"kl": {"coef": 1, "discount": 2}}, "kl.discount"),
        ({"substeps": 0}, "substeps"),
        ({"on_stale": "keep"}, "on_stale"),
        ({"loss_fn": "stable_reinforce", "substeps": 3}, "set save_every to a multiple of substeps"),
        (
            {
                "loss_fn": "stable_reinforce",
                "substeps": 2,
                "checkpoint_policy": {"strategy": "all", "save_every": 2},
            },
            "no strategy by epochs",
        ),
    ],
)
def test_bad_settings_are_refused(fields: dict[str, Any], message: str) -> None:
    """At submit."""
    with pytest.raises(InvalidJob, match=message):
        rl_payload(**fields)
