"""The contract test suite of environments: repeatable episodes, finite rewards, ends, refusals."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import pytest

from crucible.environments import Environment, Episode, Feedback, GroupEnvironment, Observation
from crucible.errors import InvalidRequest
from crucible.prompt import Message

T = TypeVar("T")
_SEED = 2**53 - 5


class EnvironmentContract:
    """The suite. Subclass it with an ``environment`` fixture, and ``answers`` that suit the tasks."""

    max_turns = 50
    """The number of turns after which an episode must have ended."""
    group_size = 2

    @pytest.fixture
    def environment(self) -> Environment:
        """The environment under test, not opened."""
        raise NotImplementedError("define a fixture named environment")

    def answers(self, task: int) -> Sequence[str]:
        """The texts with which the suite answers a task, in turn and from the start again."""
        del task
        return ("", "1", "I do not know.")

    def test_it_has_tasks(self, environment: Environment) -> None:
        """At least one, or endlessly many; one beyond the last is refused with an error that says so."""

        async def body(opened: Environment) -> None:
            count = opened.tasks()
            assert count is None or count > 0
            if count is not None:
                with pytest.raises(InvalidRequest):
                    await self._begin(opened, count, _SEED)

        run_environment(environment, body)

    def test_an_episode_begins_with_messages(self, environment: Environment) -> None:
        """To which the model answers."""

        async def body(opened: Environment) -> None:
            observation = await (await opened.start(0, _SEED)).begin()
            assert observation.messages
            assert all(isinstance(message, Message) for message in observation.messages)

        run_environment(environment, body)

    def test_task_and_seed_determine_an_episode(self, environment: Environment) -> None:
        """The same answers lead to the same messages, rewards and metrics, also with another episode between."""

        async def body(opened: Environment) -> None:
            first, between, second = [await opened.start(0, seed) for seed in (_SEED, 7, _SEED)]
            assert await self._play(first) == await self._play(second, between)

        run_environment(environment, body)

    def test_episodes_end(self, environment: Environment) -> None:
        """With finite rewards and metrics; each may be closed twice, and before its end."""

        async def body(opened: Environment) -> None:
            last = opened.tasks()
            for task in {0, 1 if last is None else last - 1}:
                episode = await opened.start(task, _SEED)
                _, replies = await self._play(episode)
                assert replies[-1].done, f"task {task} has not ended after {self.max_turns} turns"
                for reply in replies:
                    assert math.isfinite(reply.reward)
                    assert all(math.isfinite(value) for value in reply.metrics.values())
                    assert reply.done or reply.messages, "an episode that goes on must have messages to answer"
                await episode.close()
                await episode.close()
            abandoned = await opened.start(0, 1)
            await abandoned.begin()
            await abandoned.close()

        run_environment(environment, body)

    def test_groups_have_rewards(self, environment: Environment) -> None:
        """Of a group environment: one finite reward for each member, whom their seeds and messages determine."""

        async def body(opened: Environment) -> None:
            if not isinstance(opened, GroupEnvironment):
                return
            assert await self._group(opened) == await self._group(opened)

        run_environment(environment, body)

    async def _begin(self, opened: Environment, task: int, seed: int) -> Observation:
        return await (await opened.start(task, seed)).begin()

    async def _play(self, episode: Episode, other: Episode | None = None) -> tuple[Observation, list[Feedback]]:
        """The observation and the replies of an episode; ``other`` is stepped in between."""
        observation, replies, answers = await episode.begin(), list[Feedback](), self.answers(0)
        other_done = other is None or not (await other.begin()).messages
        while len(replies) < self.max_turns and not (replies and replies[-1].done):
            answer = Message(role="assistant", content=answers[len(replies) % len(answers)])
            if other is not None and not other_done:
                other_done = (await other.step(answer)).done
            replies.append(await episode.step(answer))
        return observation, replies

    async def _group(self, opened: GroupEnvironment) -> list[float]:
        members = await opened.start_group(0, _SEED, self.group_size)
        assert len(members) == self.group_size
        played = await asyncio.gather(*map(self._play, members))
        sums = [math.fsum(reply.reward for reply in replies) for _, replies in played]
        rewards = await opened.group_rewards([observation.messages for observation, _ in played], sums)
        assert len(rewards) == len(members)
        assert all(math.isfinite(reward) for reward in rewards)
        return rewards


def run_environment(environment: Environment, body: Callable[[Environment], Awaitable[T]]) -> T:
    """Open an environment, await ``body`` with it, and close it twice."""

    async def run() -> T:
        await environment.open()
        try:
            return await body(environment)
        finally:
            await environment.close()
            await environment.close()

    return asyncio.run(run())
