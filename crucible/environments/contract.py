"""The contract of environments: tasks, and episodes in which a model acts on one of them.

An environment is made once for each attempt at a job, and serves many episodes at a time. An episode is one
conversation about one task. The task and the seed determine an episode, as far as the model's messages do: only
then is a training run that was killed equal to one that was left alone. What an environment draws at random, it
draws from the seed.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from crucible.environments.chat_model import ChatModel
from crucible.errors import EnvironmentFailed, InvalidRequest
from crucible.prompt import Message, Tool
from crucible.rendering.tokenizer import Tokenizer
from crucible.token_sampler import TokenSample


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """A prompt that a ``TokenEpisode`` has rendered: the tokens that the model sees, and those that end its
    answer."""

    tokens: Sequence[int]
    stop_tokens: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Feedback:
    """An environment's response to a message of the model: a reward, and ``messages`` to answer next; none if
    ``done``. A ``TokenEpisode`` gives a ``prompt`` instead of messages.

    ``metrics`` are finite numbers by name. The means over all rollouts of a step become metrics of the step.
    """

    reward: float
    done: bool
    messages: Sequence[Message] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    prompt: TokenPrompt | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """The begin of an episode: the messages that the model answers, and the tools that it may call. A
    ``TokenEpisode`` gives a ``prompt`` instead. ``ended`` is the result of an episode that ends here: the model is
    not asked."""

    messages: Sequence[Message] = ()
    tools: Sequence[Tool] = ()
    prompt: TokenPrompt | None = None
    ended: Feedback | None = None


@dataclass(frozen=True, slots=True)
class RolloutContext:
    """The model whose answers an environment gets: the name of its base model, the tokenizer of that, and the
    number of members of each group."""

    model: str
    tokenizer: Tokenizer
    group_size: int


class Episode(ABC):
    """A conversation about a task. Its methods are called one after the other."""

    @abstractmethod
    async def begin(self) -> Observation:
        """Return what the model sees first. Called once."""

    @abstractmethod
    async def step(self, message: Message) -> Feedback:
        """Take the model's message, and return what it led to. Not called again once a feedback was ``done``.

        The message is an assistant's, with tool calls as far as the model made them.
        """

    async def close(self) -> None:
        """Release what the episode holds. May be called at any time, and twice."""


class TokenEpisode(Episode):
    """An episode that renders its own prompts: the model sees their tokens as they are, and the episode takes the
    tokens of the answer."""

    @abstractmethod
    async def step_tokens(self, sample: TokenSample) -> Feedback:
        """Take a sampled answer, and return what it led to. As ``step``."""

    async def step(self, message: Message) -> Feedback:
        """Refuse a message: this episode takes tokens."""
        raise EnvironmentFailed("the episode takes the tokens of an answer, not a message")


class Environment(ABC):
    """A set of tasks. Subclasses are found by entry points of the group ``crucible.environments``."""

    def __init__(self, settings: Mapping[str, JsonValue] | None = None) -> None:
        """Validate settings. No I/O.

        Raises:
            InvalidRequest: a setting is missing or invalid; the error names it.
        """
        del settings

    def import_targets(self, allow: Sequence[str]) -> None:
        """Import what the settings name by ``package.module:name``, of the modules that ``allow`` lists. Called
        once, after the settings are validated; by default nothing is imported.

        Raises:
            InvalidRequest: it does not exist, or is of the wrong kind.
            CommandMissing: this process may not import the module, or lacks it.
        """
        del allow

    def use_context(self, context: RolloutContext) -> None:
        """Take what is known of the model that is trained. Called once, before ``open``; by default it is not
        needed.

        Raises:
            InvalidRequest: the environment cannot serve that model, or groups of this size.
        """
        del context

    def model_names(self) -> Sequence[str]:
        """Return the names of the models that the environment asks, which the job must give; by default none."""
        return ()

    def use_models(self, models: Mapping[str, ChatModel]) -> None:
        """Take the models by these names. Called once, before ``open``, if there are any.

        Raises:
            InvalidRequest: the environment asks none.
        """
        raise InvalidRequest.of(
            "environment.models", sorted(models), "this environment asks no models; leave it out"
        )

    async def open(self) -> None:
        """Load data and connect to services. Called once, before any episode."""

    async def close(self) -> None:
        """Release them. May be called twice."""

    @abstractmethod
    def tasks(self) -> int | None:
        """Return the number of tasks, which count from 0; None if every number from 0 is a task."""

    def max_episodes(self) -> int | None:
        """Return how many episodes, or groups of them, may be open at a time; by default as many as are asked
        for."""
        return None

    @abstractmethod
    async def start(self, task: int, seed: int) -> Episode:
        """Return a new episode of a task, which is independent of all others. ``seed`` is from 0 to 2^53 - 1.

        Raises:
            InvalidRequest: there is no such task.
        """


class GroupEnvironment(Environment):
    """An environment whose episodes belong together: members of a group share a game, or are compared.

    The group is the unit: if a member fails, the whole group is begun again.
    """

    @abstractmethod
    async def start_group(self, task: int, seed: int, size: int) -> Sequence[Episode]:
        """Return the ``size`` members of a new group. They step at the same time.

        Raises:
            InvalidRequest: there is no such task, or no group of this size.
        """

    async def start(self, task: int, seed: int) -> Episode:
        [episode] = await self.start_group(task, seed, 1)
        return episode

    async def group_rewards(
        self, transcripts: Sequence[Sequence[Message]], rewards: Sequence[float]
    ) -> list[float]:
        """Return the final reward of each member, given all messages of its episode, and the sum of its rewards.

        By default the sums.
        """
        del transcripts
        return list(rewards)

    async def group_feedback(
        self, episodes: Sequence[Episode], transcripts: Sequence[Sequence[Message]], rewards: Sequence[float]
    ) -> Sequence[Feedback]:
        """Return the final reward of each member with its metrics, given the ``episodes`` too, which are not closed
        yet. By default the rewards of ``group_rewards``."""
        del episodes
        return [Feedback(reward, done=True) for reward in await self.group_rewards(transcripts, rewards)]
