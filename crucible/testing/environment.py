"""The contract test suite of environments: repeatable episodes, finite rewards, ends, refusals."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import pytest

from crucible.environments import (
    ChatModel,
    Environment,
    Episode,
    Feedback,
    GroupEnvironment,
    Observation,
    RolloutContext,
    TokenEpisode,
)
from crucible.errors import InvalidRequest
from crucible.prompt import Message
from crucible.rendering.tokenizer import ByteTokenizer
from crucible.token_sampler import TokenSample

T = TypeVar("T")
_SEED = 2**53 - 5
_TOKENIZER = ByteTokenizer()


class EnvironmentContract:
    """The suite. Subclass it with an ``environment`` fixture, and ``answers`` that suit the tasks."""

    max_turns = 50
    """The number of turns after which an episode must have ended."""
    group_size = 2
    """The members of a group of a ``GroupEnvironment``; all of them are played, at the same time."""

    model_answers: Sequence[str] = ("1", "2", "yes", "I do not know.")
    """The texts with which the models that the environment asks answer, by the seed."""

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
                    await self._play(await self._start(opened, count, _SEED))

        run_environment(environment, body, self.model_answers, self.group_size)

    def test_an_episode_begins_with_messages(self, environment: Environment) -> None:
        """To which the model answers."""

        async def body(opened: Environment) -> None:
            for observation, _ in await self._play(await self._start(opened, 0, _SEED)):
                assert observation.messages or observation.prompt or observation.ended
                assert all(isinstance(message, Message) for message in observation.messages)

        run_environment(environment, body, self.model_answers, self.group_size)

    def test_task_and_seed_determine_an_episode(self, environment: Environment) -> None:
        """The same answers lead to the same messages, rewards and metrics, also with another episode between."""

        async def body(opened: Environment) -> None:
            first, between, second = [await self._start(opened, 0, seed) for seed in (_SEED, 7, _SEED)]
            alone = await self._play(first)
            beside, _ = await asyncio.gather(self._play(second), self._play(between))
            assert alone == beside

        run_environment(environment, body, self.model_answers, self.group_size)

    def test_episodes_end(self, environment: Environment) -> None:
        """With finite rewards and metrics; each may be closed twice, and before its end."""

        async def body(opened: Environment) -> None:
            last = opened.tasks()
            for task in {0, 1 if last is None else last - 1}:
                episodes = await self._start(opened, task, _SEED)
                for _, replies in await self._play(episodes, task):
                    assert replies[-1].done, f"task {task} has not ended after {self.max_turns} turns"
                    for reply in replies:
                        assert math.isfinite(reply.reward)
                        assert all(math.isfinite(value) for value in reply.metrics.values())
                        assert reply.done != bool(reply.messages or reply.prompt), (
                            "an episode that goes on must have messages to answer, and one that is done none"
                        )
                for episode in [*episodes, *episodes]:
                    await episode.close()
            abandoned = await self._start(opened, 0, 1)
            # members of a game may wait for each other
            begun = [asyncio.create_task(episode.begin()) for episode in abandoned]
            await asyncio.wait(begun, return_when=asyncio.FIRST_COMPLETED)
            for waiting, episode in zip(begun, abandoned, strict=True):
                waiting.cancel()
                await episode.close()
            await asyncio.gather(*begun, return_exceptions=True)

        run_environment(environment, body, self.model_answers, self.group_size)

    def test_groups_have_rewards(self, environment: Environment) -> None:
        """Of a group environment: one finite reward for each member, whom their seeds and messages determine."""

        async def body(opened: Environment) -> None:
            if not isinstance(opened, GroupEnvironment):
                return
            assert await self._group(opened) == await self._group(opened)

        run_environment(environment, body, self.model_answers, self.group_size)

    async def _start(self, opened: Environment, task: int, seed: int) -> Sequence[Episode]:
        if not isinstance(opened, GroupEnvironment):
            return [await opened.start(task, seed)]
        members = await opened.start_group(task, seed, self.group_size)
        assert len(members) == self.group_size
        return members

    async def _play(self, episodes: Sequence[Episode], task: int = 0) -> list[tuple[Observation, list[Feedback]]]:
        """The observation and the feedback of each episode of a task; those of a group are played at the same
        time."""
        return list(await asyncio.gather(*(self._play_one(episode, task) for episode in episodes)))

    async def _play_one(self, episode: Episode, task: int) -> tuple[Observation, list[Feedback]]:
        observation, replies, answers = await episode.begin(), list[Feedback](), self.answers(task)
        if observation.ended is not None:
            replies.append(observation.ended)
        prompt = observation.prompt
        while len(replies) < self.max_turns and not (replies and replies[-1].done):
            text = answers[len(replies) % len(answers)]
            if isinstance(episode, TokenEpisode):
                assert prompt is not None, "an episode of tokens that goes on must have a prompt"
                stops = tuple(prompt.stop_tokens[:1])
                tokens = (*_TOKENIZER.encode(text), *stops)
                sample = TokenSample(tokens, (-1.0,) * len(tokens), stopped=bool(stops))
                replies.append(await episode.step_tokens(sample))
                prompt = replies[-1].prompt
            else:
                replies.append(await episode.step(Message(role="assistant", content=text)))
        return observation, replies

    async def _group(self, opened: GroupEnvironment) -> Sequence[Feedback]:
        episodes = await self._start(opened, 0, _SEED)
        played = await self._play(episodes)
        sums = [math.fsum(reply.reward for reply in replies) for _, replies in played]
        ended = await opened.group_feedback(episodes, [observation.messages for observation, _ in played], sums)
        assert len(ended) == len(played)
        assert all(math.isfinite(each.reward) for each in ended)
        return ended


class _ScriptedModel(ChatModel):
    """A model that answers with one of some texts, by the seed."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    async def answer(
        self, messages: Sequence[Message], *, seed: int, max_tokens: int = 256, temperature: float = 1.0
    ) -> Message:
        return Message(role="assistant", content=self._texts[seed % len(self._texts)][:max_tokens])


def run_environment(
    environment: Environment,
    body: Callable[[Environment], Awaitable[T]],
    model_answers: Sequence[str] = ("1",),
    group_size: int = 2,
) -> T:
    """Open an environment, await ``body`` with it, and close it twice. The models that it asks answer with one of
    ``model_answers``, by the seed. The model that is trained has the tokens of ``ByteTokenizer``."""

    async def run() -> T:
        environment.use_context(RolloutContext("tiny-lm", _TOKENIZER, group_size))
        if names := environment.model_names():
            environment.use_models({name: _ScriptedModel(model_answers) for name in names})
        await environment.open()
        try:
            return await body(environment)
        finally:
            await environment.close()
            await environment.close()

    return asyncio.run(run())
