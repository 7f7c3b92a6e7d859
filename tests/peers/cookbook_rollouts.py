"""Rollouts of our environments in the loops of the official cookbook, with the seeds of our rollouts.

``SETTINGS``, the first argument of the program, is a JSON file: ``model``, ``tokenizer``, ``seed``, ``size``,
``turns``, ``tasks`` of each step, and an ``environment`` of a job, or ``rows`` with a ``reward`` function or
without; neither, if a program has environments of its own. A sample has the seed of our rollout in its place, which
the loops do not give.
"""

import functools
import json
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import tinker
import torch
from tinker_cookbook import completers
from tinker_cookbook.renderers.base import ParseTermination, Renderer
from tinker_cookbook.rl.types import Env, EnvGroupBuilder, StepResult
from tinker_cookbook.tokenizer_utils import register_tokenizer
from transformers import AutoTokenizer

from backends.tinkex.backend import TinkexBackend
from crucible.environments import Environment, Episode, GroupEnvironment, PromptTask, RewardEnvironment
from crucible.environments import load_environment as load
from crucible.environments.registry import load_target
from crucible.options import Options
from crucible.prompt import Message, Prompt
from crucible.rendering.chat import chat_of
from crucible.rendering.tokenizer import ByteTokenizer
from nsai_work.payloads import EnvironmentSpec
from nsai_work.training.rollouts.episodes.asked_models import asked_models
from nsai_work.training.rollouts.episodes.place import RolloutPlace
from nsai_work.training.rollouts.episodes.rollout import parsed_answer

OURS = ByteTokenizer()
settings = json.loads(Path(sys.argv[1]).read_text())
seed_of_sample: ContextVar[int | None] = ContextVar("seed", default=None)


class Stop(list[int]):
    """The stop tokens of a sample, with its seed."""

    seed: int


class OwnRenderer(Renderer):
    """Renders and parses as our driver does."""

    def get_stop_sequences(self) -> list[int]:
        return list(OURS.stop_tokens)

    def build_generation_prompt(self, messages: Any, *_: Any, **__: Any) -> tinker.ModelInput:
        return tinker.ModelInput.from_ints(OURS.render_prompt(_turns(messages)))

    def build_supervised_example(self, messages: Any, *_: Any, **__: Any) -> tuple[tinker.ModelInput, torch.Tensor]:
        turns = _turns(messages)
        answer = OURS.render_prompt(turns)[len(OURS.render_prompt(turns[:-1])) : -1]
        before = OURS.render_prompt(turns[:-1])
        weights = torch.tensor([0.0] * len(before) + [1.0] * len(answer))
        return tinker.ModelInput.from_ints([*before, *answer]), weights

    def render_message(self, message: Any, ctx: Any) -> Any:
        raise AssertionError("only whole conversations are rendered here")

    def parse_response(self, response: list[int]) -> tuple[Any, ParseTermination]:
        ended = response[-1] in OURS.stop_tokens
        message = {"role": "assistant", "content": OURS.decode(response)}
        return message, ParseTermination.STOP_SEQUENCE if ended else ParseTermination.MALFORMED


def _turns(messages: Any) -> list[dict[str, str]]:
    return [{"role": message["role"], "content": message["content"]} for message in messages]


class OurEnv(Env):
    """An episode of ours, rendered and parsed as our driver does."""

    def __init__(self, episode: Episode, place: RolloutPlace) -> None:
        self._episode, self._place = episode, place
        self.messages: list[Message] = []
        self._tools: tuple[Any, ...] = ()
        self._turn = 0

    async def initial_observation(self) -> Any:
        observation = await self._episode.begin()
        self.messages, self._tools = list(observation.messages), tuple(observation.tools)
        return self._observed()

    async def step(self, action: list[int], *, extra: Any = None) -> StepResult:
        answer = parsed_answer(action, self._turn, OURS.stop_tokens, OURS)
        feedback = await self._episode.step(answer)
        self._turn += 1
        done = feedback.done or self._turn == settings["turns"]
        self.messages += [answer, *feedback.messages]
        prompt, stop = (tinker.ModelInput.empty(), []) if done else self._observed()
        return StepResult(feedback.reward, done, prompt, stop)

    def _observed(self) -> tuple[tinker.ModelInput, Stop]:
        prompt = Prompt(messages=tuple(self.messages), tools=self._tools, options=Options(model="policy"))
        stop = Stop(OURS.stop_tokens)
        stop.seed = self._place.sample_seed(self._turn)
        return tinker.ModelInput.from_ints(OURS.render_chat(chat_of(prompt))), stop


class Group(EnvGroupBuilder):
    """A group of our environment."""

    def __init__(self, task: int, step: int, number: int) -> None:
        self._task = task
        self._place = RolloutPlace("", settings["seed"], 1, step, number, 0)

    async def make_envs(self) -> Sequence[Env]:
        seed, size = self._place.episode_seed, settings["size"]
        if isinstance(environment, GroupEnvironment):
            episodes = list(await environment.start_group(self._task, seed, size))
        else:
            episodes = [await environment.start(self._task, seed) for _ in range(size)]
        return [
            OurEnv(episode, RolloutPlace("", settings["seed"], 1, self._place.step, self._place.group, member))
            for member, episode in enumerate(episodes)
        ]

    async def compute_group_rewards(self, trajectories: Any, envs: Any) -> list[tuple[float, dict[str, Any]]]:
        sums = [sum(each.reward for each in one.transitions) for one in trajectories]
        if not isinstance(environment, GroupEnvironment):
            return [(0.0, {}) for _ in sums]
        rewards = await environment.group_rewards([env.messages for env in envs], sums)
        return [(reward - before, {}) for reward, before in zip(rewards, sums, strict=True)]


def opened() -> Environment:
    """The environment of the settings, with the models that it asks."""
    if "rows" in settings:
        rows = []
        for row in settings["rows"]:
            columns = {name: value for name, value in row.items() if name != "prompt"}
            rows.append(PromptTask(row["prompt"], [Message(role="user", content=row["prompt"])], columns))
        named = settings.get("reward")
        reward = load_target("reward", named, allow=["tests"]) if named else lambda *_, **__: 0.0
        return RewardEnvironment(reward, rows)
    spec = EnvironmentSpec.model_validate(settings["environment"])
    made = load(spec.name, spec.args, allow=["tests", "crucible.environments"])
    if spec.models:
        made.use_models(asked_models(spec, backend))
    return made


def with_seed(call: Any) -> Any:
    """A completer that samples with the seed of its stop tokens."""

    @functools.wraps(call)
    async def completed(self: Any, prompt: Any, stop: Any, **options: Any) -> Any:
        seed_of_sample.set(stop.seed)
        return await call(self, prompt, list(stop), **options)

    return completed


def seeded_sample(sample: Any) -> Any:
    """The client's samples, with the seed of the completer."""

    @functools.wraps(sample)
    def seeded(self: Any, prompt: Any, num_samples: int, sampling_params: Any, *args: Any, **kwargs: Any) -> Any:
        given = sampling_params.model_copy(update={"seed": seed_of_sample.get()})
        return sample(self, prompt, num_samples, given, *args, **kwargs)

    return seeded


def seeded_run(create: Any) -> Any:
    """The creation of a training client, with the adapter's seed."""

    @functools.wraps(create)
    def created(*args: Any, **kwargs: Any) -> Any:
        return create(*args, **{"seed": settings["seed"], **kwargs})

    return created


completers.TinkerTokenCompleter.__call__ = with_seed(completers.TinkerTokenCompleter.__call__)
tinker.SamplingClient.sample = seeded_sample(tinker.SamplingClient.sample)
for name in ("create_lora_training_client", "create_lora_training_client_async"):
    setattr(tinker.ServiceClient, name, seeded_run(getattr(tinker.ServiceClient, name)))
register_tokenizer(settings["model"], functools.cache(lambda: AutoTokenizer.from_pretrained(settings["tokenizer"])))
backend = TinkexBackend()
environment = opened() if {"rows", "environment"} & settings.keys() else None
