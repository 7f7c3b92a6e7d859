"""Builders of the cookbook for the tests of its adapter: a conversation of several turns, and faults."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import chz
import tinker
from tinker_cookbook.renderers import get_renderer, get_text_content
from tinker_cookbook.rl.types import (
    Env,
    EnvGroupBuilder,
    InitialObservationOverflow,
    RLDataset,
    RLDatasetBuilder,
    StepResult,
)
from tinker_cookbook.tokenizer_utils import get_tokenizer


class Talk(Env):
    """Asks three times; the reward of each answer is its length, and the metric its place."""

    def __init__(self, renderer: Any) -> None:
        self.renderer = renderer
        self.said: list[Any] = [{"role": "user", "content": "Speak."}]

    def shown(self) -> tuple[Any, Any]:
        """The prompt and the stops."""
        return self.renderer.build_generation_prompt(self.said), self.renderer.get_stop_sequences()

    async def initial_observation(self) -> Any:
        return self.shown()

    async def step(self, action: list[int], *, extra: Any = None) -> StepResult:
        message, termination = self.renderer.parse_response(action)
        text = get_text_content(message)
        self.said += [message, {"role": "user", "content": f"{text}? More."}]
        turn = len(self.said) // 2
        metrics = {"place": turn, "stopped": float(termination.is_stop_sequence and extra["stop_reason"] == "stop")}
        return StepResult(float(len(text)), turn == 3, *self.shown(), metrics=metrics)


@dataclass
class TalkBuilder(EnvGroupBuilder):
    """A group of it, in which the last member gets the number of turns of all."""

    model_name: str
    renderer_name: str
    num_envs: int
    cleaned: ClassVar[int] = 0

    async def make_envs(self) -> Sequence[Env]:
        renderer = get_renderer(self.renderer_name, get_tokenizer(self.model_name))
        return [Talk(renderer) for _ in range(self.num_envs)]

    async def compute_group_rewards(self, trajectory_group: Any, env_group: Any) -> Any:
        assert all(isinstance(env, Talk) for env in env_group)
        turns = [len(trajectory.transitions) for trajectory in trajectory_group]
        logprobs = [len(each.ac.logprobs) == len(each.ac.tokens) for each in trajectory_group[0].transitions]
        assert all(logprobs)
        own = [{"turns": turn} for turn in turns]
        return [(0.0, metrics) for metrics in own[:-1]] + [(float(sum(turns)), own[-1])]

    async def cleanup(self) -> None:
        type(self).cleaned += 1


class Faulty(Talk):
    """Misbehaves in the way that ``fault`` names."""

    def __init__(self, renderer: Any, fault: str) -> None:
        super().__init__(renderer)
        self.fault = fault

    async def initial_observation(self) -> Any:
        if self.fault == "no prompt":
            return "hello"
        if self.fault == "empty prompt":
            return tinker.ModelInput.empty(), [256]
        if self.fault == "unknown tokens":
            return tinker.ModelInput.from_ints([1, 5000]), [256]
        if self.fault == "texts as stops":
            return self.shown()[0], ["\n\nUser:"]
        if self.fault == "an image":
            image = tinker.types.ImageChunk(data=b"x", format="png")
            return tinker.ModelInput(chunks=[image]), [256]
        if self.fault == "too long at once":
            return InitialObservationOverflow(-0.5, {"stop/max_tokens": 1.0})
        if self.fault == "10 MB at once":
            self.said[0]["content"] = "x" * 10_000_000
        return self.shown()

    async def step(self, action: list[int], *, extra: Any = None) -> Any:
        result = await super().step(action, extra=extra)
        match self.fault:
            case "raises":
                raise RuntimeError("out of dice")
            case "exits":
                raise SystemExit(3)
            case "hangs":
                await asyncio.Event().wait()
            case "blocks":
                time.sleep(300)  # noqa: ASYNC251  # it is what this one does
            case "NaN":
                result.reward = float("nan")
            case "text":
                result.reward = "1.0"
            case "text as the end":
                result.episode_done = "no"
            case "no result":
                return 1.0
            case "NaN metric":
                result.metrics["odd"] = float("inf")
            case "text metric":
                result.metrics["odd"] = "high"
            case "10 MB":
                self.said[-1]["content"] = "x" * 10_000_000
                result.next_observation = self.shown()[0]
            case "endless":
                result.episode_done = False
        return result


@dataclass
class FaultyBuilder(EnvGroupBuilder):
    """A group of it, or faults of its own."""

    renderer: Any
    fault: str
    size: int

    async def make_envs(self) -> Sequence[Env]:
        if self.fault == "no members":
            raise RuntimeError("no sandbox")
        size = self.size + 1 if self.fault == "another size" else self.size
        return [Faulty(self.renderer, self.fault) for _ in range(size)]

    async def compute_group_rewards(self, trajectory_group: Any, env_group: Any) -> Any:
        match self.fault:
            case "raises for the group":
                raise RuntimeError("no judge")
            case "text for the group":
                return [("1.0", {})] * self.size
            case "NaN for the group":
                return [(float("nan"), {})] * self.size
            case "too few for the group":
                return [(1.0, {})]
        return await super().compute_group_rewards(trajectory_group, env_group)


class FaultyData(RLDataset):
    """Two groups, of which the first misbehaves."""

    def __init__(self, renderer: Any, fault: str, size: int) -> None:
        self.renderer, self.fault, self.size = renderer, fault, size

    def __len__(self) -> int:
        return 2

    def get_batch(self, index: int) -> Sequence[EnvGroupBuilder]:
        if self.fault == "no batch" and index == 0:
            raise RuntimeError("no data")
        return [FaultyBuilder(self.renderer, "" if index else self.fault, self.size)]


@chz.chz
class FaultyDataBuilder(RLDatasetBuilder):
    """It."""

    fault: str
    group_size: int
    model_name_for_tokenizer: str
    renderer_name: str
    batch_size: int

    async def __call__(self) -> Any:
        if self.fault == "refuses":
            raise ValueError("no such data")
        renderer = get_renderer(self.renderer_name, get_tokenizer(self.model_name_for_tokenizer))
        return FaultyData(renderer, self.fault, self.group_size), None
