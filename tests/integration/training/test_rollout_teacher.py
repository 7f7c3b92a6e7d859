"""A teacher of the student's own answers, which sees another prompt: its targets are equal after any death."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.fake import FakeBackend
from crucible.environments import PromptTask
from crucible.prompt import Message
from crucible.rendering.tokenizer import ByteTokenizer
from nsai_work.client.validation.teacher_check import check_penalty
from nsai_work.errors import InvalidJob
from nsai_work.training.rollouts.environment import check_environment
from nsai_work.training.rollouts.episodes.turns import unpacked
from nsai_work.training.rollouts.teacher import teacher_messages
from tests.integration.training.harness import Reaper, Scene
from tests.integration.training.test_reinforcement import outcome, rl_payload

pytestmark = pytest.mark.anyio

TEMPLATE = "{prompt}\nAs in: {answer}"


def taught(folder: Path, **fields: Any) -> Any:
    """A job whose teacher sees an answer."""
    path = folder / "prompts.jsonl"
    path.write_text("".join(f'{{"prompt": "Say {n}.", "answer": "So {n}."}}\n' for n in range(4)))
    teacher = {"top_k": 3, "prompt": TEMPLATE, "skip_tokens": 1}
    settings = {"environment": None, "data": {"path": str(path)}, "teacher": teacher, "group_size": 1}
    return rl_payload(
        **{**settings, "sampling": {"max_tokens": 5}, "optimizer": {"learning_rate": 0.003}, **fields}
    )


async def test_targets_are_those_of_a_teacher_with_the_answer_in_its_prompt(tmp_path: Path) -> None:
    """By an independent sampler, on what the journal says was sampled; the loss comes down to the teacher's."""
    scene = Scene(taught(tmp_path, groups_per_step=4, max_steps=6), new_backend=FakeBackend)
    await scene.drive()
    tokenizer = ByteTokenizer()
    total = weight = 0.0
    async with FakeBackend() as backend:
        sampler = await backend.sampler("tiny-lm")
        for record in scene.journal.rollouts.values():
            if record.step != 1:
                continue
            shown = f"Say {record.task}."
            own = tokenizer.render_prompt([{"role": "user", "content": shown}])
            seen = tokenizer.render_prompt([{"role": "user", "content": f"{shown}\nAs in: So {record.task}."}])
            turns = [turn for turn in scene.journal.turns.values() if (turn.step, turn.group) == (1, record.group)]
            sampled = sampled_tokens(turns)
            top = await sampler.top_tokens([*seen, *sampled], 3)
            for place in range(1, len(sampled)):
                given = top[len(seen) - 1 + place][:3]
                shares = np.exp([logprob for _, logprob in given])
                shares /= shares.sum()
                for (token, _), share in zip(given, shares, strict=True):
                    scored = await sampler.score([*own, *sampled[:place], token])
                    total -= float(share) * scored[-1]
                weight += 1.0
        await sampler.close()

    assert scene.losses[0] == pytest.approx(total / weight, rel=1e-5)
    assert scene.losses[-1] < scene.losses[0]


def sampled_tokens(turns: Any) -> list[int]:
    """The tokens of a rollout of one turn."""
    [turn] = turns
    return list(unpacked(turn).tokens)


async def test_short_answers_teach_nothing(tmp_path: Path) -> None:
    """Where all are shorter than what is skipped, and where a round has more steps than answers: a step without
    anything to learn is one that changes nothing."""
    teacher = {"top_k": 3, "prompt": TEMPLATE, "skip_tokens": 50}
    scene = Scene(taught(tmp_path, teacher=teacher, substeps=3, max_steps=3), new_backend=FakeBackend)
    await scene.drive()

    assert [step.metrics["trained_tokens"] for step in scene.journal.steps] == [0.0] * 3
    assert all(map(math.isfinite, scene.losses))


async def test_a_prompt_beyond_the_teacher_s_context_is_refused(tmp_path: Path) -> None:
    """With what to do."""
    teacher = {"prompt": "x" * 5000}
    with pytest.raises(InvalidJob, match="leave no room for an answer"):
        await Scene(taught(tmp_path, teacher=teacher), new_backend=FakeBackend).drive()


@pytest.mark.parametrize("fields", [{}, {"substeps": 2, "max_steps": 4, "steps_ahead": 1}], ids=str)
async def test_killed_in_between(tmp_path: Path, fields: dict[str, Any]) -> None:
    """Losses and metrics are those of a run left alone."""
    alone, counted = Scene(taught(tmp_path, **fields), new_backend=FakeBackend), Reaper()
    await alone.drive(reaper=counted)
    for kill_at in range(5, counted.contacts, counted.contacts // 4):
        scene = Scene(taught(tmp_path, **fields), new_backend=FakeBackend)
        await scene.survive([kill_at])
        assert outcome(scene) == outcome(alone), kill_at


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kl": {"coef": 1.0}}, "leave kl out"),
        ({"data": {}, "environment": {"name": "tests.games:Guess"}}, "answers to the prompts of data"),
        ({"loss_fn": "ppo"}, "loss_fn: with a teacher it is cross_entropy"),
        ({"loss_fn_config": {"beta": 1.0}}, "loss_fn: with a teacher"),
        ({"teacher": {"top_k": 0}}, "teacher.top_k"),
        ({"advantage": {"scale": "std"}}, "advantage: the targets of teacher take its place"),
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    """At submit."""
    with pytest.raises(InvalidJob, match=message):
        taught(tmp_path, **fields)


async def test_what_the_files_and_the_backend_lack_is_refused(tmp_path: Path) -> None:
    """A column of the template, and a teacher."""
    with pytest.raises(InvalidJob, match=r"a row lacks solution; its columns are answer, prompt"):
        check_environment(taught(tmp_path, teacher={"prompt": "{solution}"}), [])
    async with FakeBackend() as backend:
        with pytest.raises(InvalidJob, match=r"payload\.teacher\.model"):
            await check_penalty(backend, taught(tmp_path, teacher={"model": "nobody"}))


def test_the_last_message_of_the_user_is_replaced() -> None:
    """Braces that name no column stay as they are."""
    messages = [Message(role="system", content="S"), Message(role="user", content="q {answer}")]
    found = teacher_messages(PromptTask("q", messages, {"answer": 7}), "{prompt}: {answer} {} {1}")

    assert [(each.role.value, each.text()) for each in found] == [("system", "S"), ("user", "q {answer}: 7 {} {1}")]
