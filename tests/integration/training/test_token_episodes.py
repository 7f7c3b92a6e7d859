"""Episodes of tokens: the model sees what they render, a killed run repeats them, faults cost their rollouts."""

from typing import Any

import pytest

from backends.fake import FakeBackend
from crucible.errors import EnvironmentFailed
from nsai_work.training.rollouts.episodes.turns import current_turns, full_prompt
from tests.integration.training.harness import Reaper, Scene
from tests.integration.training.test_reinforcement import outcome, rl_payload
from tests.token_games import BEGIN, STOP, Echoes

pytestmark = pytest.mark.anyio


def echoes(**args: Any) -> Any:
    """A job on them."""
    sampling = {"max_tokens": 30, "on_error": {"retry": 1, "min_group": 1}}
    environment = {"name": "tests.token_games:Echoes", "args": args}
    return rl_payload(environment=environment, sampling=sampling, max_steps=3, group_size=3)


async def test_the_model_sees_the_tokens_of_the_episode() -> None:
    """Answers end with the token that it names; what is to read is decoded."""
    scene = Scene(echoes(), new_backend=FakeBackend)
    await scene.drive()
    stopped = 0
    for record in scene.journal.rollouts.values():
        place = (record.step, record.group, record.member)
        own = [turn for turn in scene.journal.turns.values() if (turn.step, turn.group, turn.member) == place]
        turns, _ = current_turns(own)
        assert full_prompt(turns, 0) == [BEGIN, 65 + record.task]
        assert full_prompt(turns, 1) == [BEGIN, 65 + record.task, *turns[0].tokens, BEGIN, 66]
        assert turns[0].messages[0]["content"] == chr(65 + record.task)
        assert turns[1].messages[0]["content"] == "B"
        stopped += sum(turn.stopped for turn in turns)
        assert all((turn.tokens[-1] == STOP) == turn.stopped for turn in turns)
        assert "a" not in "".join(turn.answer.get("content", "")[-1:] for turn in turns if turn.stopped)
    assert stopped
    assert {record.metrics["place"] for record in scene.journal.rollouts.values()} > {0.0}
    assert all(record.reward == record.metrics["place"] for record in scene.journal.rollouts.values())


async def test_killed_at_every_point() -> None:
    """Episodes are begun again, and given the tokens of the journal."""
    alone, counted = Scene(echoes(), new_backend=FakeBackend), Reaper()
    await alone.drive(reaper=counted)
    for kill_at in range(1, counted.contacts + 1, counted.contacts // 9):
        scene = Scene(echoes(), new_backend=FakeBackend)
        await scene.survive([kill_at])
        assert outcome(scene) == outcome(alone), kill_at


FAULTS = {
    "no prompt": "must have a prompt with tokens",
    "no tokens": "must have a prompt with tokens",
    "unknown token": "tokens from 320 to 320; those of the model are 0 to 319",
    "negative token": "tokens from -1 to -1",
    "unknown stop": "tokens from 1000 to 1000",
    "texts": "something else than tokens",
    "ends at once with NaN": "a reward must be finite",
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_costs_its_group(fault: str) -> None:
    """It is counted with its reason; the service never sees a token that the model lacks."""
    scene = Scene(echoes(fault=fault), new_backend=FakeBackend)
    await scene.drive()
    bad = [record for record in scene.journal.rollouts.values() if record.task == 0]
    assert all(record.reward is None and FAULTS[fault] in record.reason for record in bad)
    assert all(record.reward is not None for record in scene.journal.rollouts.values() if record.task == 1)


@pytest.mark.parametrize("fault", ["one feedback", "no feedbacks"])
async def test_wrong_rewards_of_a_group_fail_it(fault: str) -> None:
    """By their number and their kind."""
    with pytest.raises(EnvironmentFailed, match="the rewards of the group are something else than 3 rewards"):
        await Scene(echoes(fault=fault), new_backend=FakeBackend).drive()


@pytest.mark.parametrize(("fault", "reason"), [("10 million tokens", "context"), ("ends at once", "done")])
async def test_what_ends_before_an_answer_is_counted(fault: str, reason: str) -> None:
    """And the run trains on the other group."""
    scene = Scene(echoes(fault=fault), new_backend=FakeBackend)
    await scene.drive()
    bad = [record for record in scene.journal.rollouts.values() if record.task == 0]
    assert {(record.reason, record.turns) for record in bad} == {(reason, 0)}


@pytest.mark.parametrize(("most", "seen"), [(1, {1}), (None, {1, 2})])
async def test_an_environment_bounds_its_open_episodes(most: int | None, seen: set[int]) -> None:
    """Groups wait for a place before they begin."""
    made: list[Echoes] = []
    environment = {"max_episodes": most} if most else {}
    with pytest.MonkeyPatch.context() as patch:
        init = Echoes.__init__

        def noted(self: Echoes, settings: Any = None) -> None:
            init(self, settings)
            made.append(self)

        patch.setattr(Echoes, "__init__", noted)
        await Scene(echoes(**environment), new_backend=FakeBackend).drive()
    assert {count for each in made for count in each.seen} == seen


@pytest.mark.parametrize("most", [0, -1, "many"])
async def test_a_wrong_bound_fails_the_job(most: Any) -> None:
    """With what it gave."""
    with pytest.raises(EnvironmentFailed, match=r"max_episodes\(\) of the environment gave"):
        await Scene(echoes(max_episodes=most), new_backend=FakeBackend).drive()
