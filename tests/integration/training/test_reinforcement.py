"""Reinforcement learning: a death at any point changes no bit, and no turn that is in the journal is sampled
again."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.fake import FakeBackend
from backends.tinkex.backend import TinkexBackend
from backends.tinkex_dev.server import DevServer
from nsai_work.errors import InvalidJob
from nsai_work.journal import ResumeMode
from nsai_work.payloads import JobKind, parse_payload
from nsai_work.training.rollouts.episodes.turns import current_turns
from tests.integration.training.harness import Killed, Reaper, Scene

pytestmark = pytest.mark.anyio

STEPS = 3


def rl_payload(**fields: Any) -> Any:
    """A small job on letters."""
    base: dict[str, Any] = {
        "method": "rl",
        "base_model": "tiny-lm",
        "environment": {"name": "tests.games:Letters", "args": {"letters": "ab"}},
        "groups_per_step": 2,
        "group_size": 2,
        "max_steps": STEPS,
        "sampling": {"max_tokens": 3},
        "lora": {"rank": 4, "seed": 0},
        "optimizer": {"learning_rate": 0.01},
        "checkpoint_policy": {"save_every": 2, "keep_last": 2},
        "recovery": {"enabled": True, "backoff_ms": 1000, "poll_interval_ms": 50},
    }
    return parse_payload(JobKind.TRAINING_STEP, base | fields)


GUESS = {"environment": {"name": "tests.games:Guess"}, "advantage": {"scale": "std"}}
LONGEST = {"environment": {"name": "tests.games:Longest"}, "sampling": {"max_tokens": 8}}


def outcome(scene: Scene) -> list[Any]:
    """What a run comes to: the losses and metrics of its steps, and the rewards and turns of its rollouts."""
    steps = [(step.step, step.loss, step.metrics) for step in scene.journal.steps]
    newest = {(one.step, one.group, one.member): one for one in scene.journal.rollouts.values()}
    rollouts = []
    for place, record in sorted(newest.items()):
        own = [turn for turn in scene.journal.turns.values() if (turn.step, turn.group, turn.member) == place]
        turns, _ = current_turns(own)
        rollouts.append((place, record.reward, record.reason, record.metrics, turns_of(turns)))
    return [*steps, *rollouts]


def turns_of(turns: Any) -> list[Any]:
    """The turns without the ids of their sequences, which are a session's own."""
    return [(turn.prompt, turn.tokens, turn.logprobs, turn.answer) for turn in turns]


@pytest.mark.parametrize("fields", [{}, {**GUESS, "steps_ahead": 1}, LONGEST], ids=["letters", "guess", "longest"])
async def test_killed_at_every_point(fields: dict[str, Any]) -> None:
    """While rollouts, steps, saves and sampling weights are under way."""
    alone, counted = Scene(rl_payload(**fields), new_backend=FakeBackend), Reaper()
    result = await alone.drive(reaper=counted)
    assert result["steps"] == STEPS
    for kill_at in range(1, counted.contacts + 1, counted.contacts // 9):
        scene = Scene(rl_payload(**fields), new_backend=FakeBackend)
        await scene.survive([kill_at])
        assert outcome(scene) == outcome(alone), kill_at


@settings(max_examples=4, derandomize=True)
@given(
    kills=st.lists(st.integers(1, 60), min_size=2, max_size=4),
    ahead=st.integers(0, 2),
    depth=st.integers(1, 3),
    loss_fn=st.sampled_from(["importance_sampling", "ppo", "cispo", "gspo"]),
)
async def test_killed_again_and_again(kills: list[int], ahead: int, depth: int, loss_fn: str) -> None:
    """Any number of deaths at any points, at any lag and depth, with each loss."""
    fields: dict[str, Any] = {**GUESS, "steps_ahead": ahead, "loss_fn": loss_fn}
    alone = Scene(rl_payload(**fields), new_backend=FakeBackend)
    await alone.drive()
    scene = Scene(rl_payload(**fields, pipeline_depth=depth), new_backend=FakeBackend)
    await scene.survive(kills)
    assert outcome(scene) == outcome(alone)


async def test_a_run_with_rounds_ahead_goes_on_in_another_job() -> None:
    """Its first rounds are sampled from the weights with which it begins, as those of a new run are; a death
    changes nothing. Within a round it cannot begin."""
    fields: dict[str, Any] = {"steps_ahead": 1, "substeps": 2, "max_steps": 2}
    first = Scene(rl_payload(**fields), new_backend=FakeBackend)
    start = {"job": first.job.id, "step": 2, "path": (await first.drive())["checkpoint"]}
    fields |= {"max_steps": 6, "continue_from": start}
    alone, counted = Scene(rl_payload(**fields), new_backend=FakeBackend), Reaper()
    await alone.drive(reaper=counted)
    assert [step.step for step in alone.journal.steps] == [3, 4, 5, 6]
    assert [step.metrics["staleness"] for step in alone.journal.steps] == [0.0, 1.0, 2.0, 3.0]
    killed = Scene(rl_payload(**fields), new_backend=FakeBackend)
    await killed.survive([counted.contacts // 2])
    assert outcome(killed) == outcome(alone)
    with pytest.raises(InvalidJob, match="continue_from: step 2 is within a round of 4 substeps"):
        rl_payload(**fields | {"substeps": 4})


def sampled(server: DevServer) -> tuple[int, int]:
    """How many requests for samples the server computed, and how many it answered from its record."""
    entries = server.log(kind="sample")
    counts = Counter(bool(entry["replayed"]) for entry in entries)
    return counts[False], counts[True]


@pytest.mark.parametrize(
    "fields",
    [{"loss_fn": "stable_reinforce"}, {"loss_fn": "ppo", "steps_ahead": 2}, GUESS],
    ids=["stable_reinforce", "ppo-ahead", "guess"],
)
async def test_no_turn_is_sampled_twice(tmp_path: Path, fields: dict[str, Any]) -> None:
    """By the dev server's own journal: a sample that was under way at a death is answered from the record of
    requests, and the weights are those of a run that was left alone."""
    with DevServer(tmp_path / "server", seed=0, hold_s=2.0) as server:

        def new_backend() -> TinkexBackend:
            return TinkexBackend({"base_url": server.url, "api_key": "tml-dev"})

        alone, counted = Scene(rl_payload(**fields), new_backend=new_backend), Reaper()
        first = await alone.drive(reaper=counted)
        before, _ = sampled(server)
        assert before == len(alone.journal.turns)
        scene = Scene(rl_payload(**fields), new_backend=new_backend)
        kills = [11, 23, 31, 17, 40, 29, 12, 50]
        second = await scene.survive(kills)
        after, replayed = sampled(server)
        assert [run.resume for run in scene.journal.runs] == [ResumeMode.WARM]
        assert outcome(scene) == outcome(alone)
        assert after - before == len(scene.journal.turns), "each turn was sampled once"
        assert replayed > 0, "no death was between a sample and its record"
        assert server.checkpoint_digest(second["checkpoint"]) == server.checkpoint_digest(first["checkpoint"])


@pytest.mark.parametrize("loss_fn", ["importance_sampling", "stable_reinforce"])
@pytest.mark.parametrize("fault", ["corrupt", "lose_model"])
async def test_a_lost_run_trains_on_the_rollouts_of_the_journal(tmp_path: Path, fault: str, loss_fn: str) -> None:
    """Restored from a checkpoint, or from the start, it repeats its steps on the same rollouts, and only what is
    missing is sampled. Sequences that ended with their session are sampled anew, and that is said."""
    fields: dict[str, Any] = {**GUESS, "loss_fn": loss_fn, "checkpoint_policy": {"save_every": 1, "keep_last": 2}}
    with DevServer(tmp_path / "server", seed=0, hold_s=2.0) as server:

        def new_backend() -> TinkexBackend:
            return TinkexBackend({"base_url": server.url, "api_key": "tml-dev"})

        alone, counted = Scene(rl_payload(**fields), new_backend=new_backend), Reaper()
        first = await alone.drive(reaper=counted)
        before, _ = sampled(server)
        scene = Scene(rl_payload(**fields), new_backend=new_backend)
        with pytest.raises(Killed):
            await scene.drive(kill_at=counted.contacts * 3 // 5)
        kept = len(scene.journal.turns)
        server.fault(kind=fault, model_id=scene.journal.runs[-1].ref.run_id)
        second = await scene.drive()
        assert len(scene.journal.runs) == 2
        assert 0 < kept < len(alone.journal.turns)
        assert outcome(scene) == outcome(alone)
        assert server.checkpoint_digest(second["checkpoint"]) == server.checkpoint_digest(first["checkpoint"])
        anew = [event["sampled_anew"] for event in scene.journal.events_named("training.rollouts_reused")]
        if loss_fn == "stable_reinforce":
            assert sum(int(str(count)) for count in anew) > 0
        else:
            # at most the samples that were under way at the death and are not in the journal are made twice
            assert sum(int(str(count)) for count in anew) == 0
            assert sampled(server)[0] - before <= len(scene.journal.turns) + 4
            assert len(scene.journal.turns) == len(alone.journal.turns)
