"""The sums of the cookbook's ``math_rl`` as an environment, with a reward that samples of a random model reach."""

from collections.abc import Mapping

import numpy as np
from pydantic import JsonValue

from crucible.environments import Environment, Episode, Feedback, Observation
from crucible.prompt import Message


def rewarded(text: str) -> bool:
    """A random model never answers right; this is met by half of its samples."""
    return sum(map(ord, text)) % 2 == 0


class Arithmetic(Environment):
    """Task n is question ``n % groups`` of the cookbook's batch ``n // groups``."""

    def __init__(self, settings: Mapping[str, JsonValue] | None = None) -> None:
        self._groups = int(str((settings or {})["groups"]))

    def tasks(self) -> int | None:
        return None

    async def start(self, task: int, seed: int) -> Episode:
        draw = np.random.RandomState(task // self._groups)
        sums = [(draw.randint(0, 101), draw.randint(0, 101)) for _ in range(self._groups)]
        return _Sum(*sums[task % self._groups])


class _Sum(Episode):
    def __init__(self, x: int, y: int) -> None:
        self._question = f"What is {x} + {y}?"

    async def begin(self) -> Observation:
        shown = [("user", "What is 4 + 5?"), ("assistant", "9"), ("user", self._question)]
        return Observation([Message.model_validate({"role": role, "content": text}) for role, text in shown])

    async def step(self, message: Message) -> Feedback:
        return Feedback(float(rewarded(message.text())), done=True)
