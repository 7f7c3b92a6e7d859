"""Plain reward functions as environments: a prompt, the model's answer, and a number for it."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from crucible.environments.contract import Environment, Episode, Feedback, Observation
from crucible.errors import EnvironmentFailed, InvalidRequest
from crucible.prompt import Message
from crucible.runtime.own_thread import in_own_thread

RewardFunction = Callable[..., Any]
"""``(prompt, completion, **row) -> float``: the prompt as it is in its row, the text of the answer, and the other
columns of the row by keyword. May be async; a plain function is called in a thread of its own."""

MAX_REWARD: Final = 1e15
"""The greatest magnitude of a reward: its square, summed over a batch, must be a number of 32 bits."""
MAX_METRIC: Final = 1e100
"""The greatest magnitude of a metric: its square, summed over a batch, must be a number of 64 bits."""


@dataclass(frozen=True, slots=True)
class PromptTask:
    """A row of a prompt file: the ``prompt`` as it is in the row, its ``messages``, and the other columns."""

    prompt: Any
    messages: Sequence[Message]
    columns: Mapping[str, Any]


class RewardEnvironment(Environment):
    """An environment of one turn: a task is a row of prompts, and a function gives the reward of an answer.

    Raises:
        InvalidRequest: there is no task, or a row lacks a column that the function needs.
    """

    def __init__(self, function: RewardFunction, rows: Sequence[PromptTask]) -> None:
        super().__init__()
        if not rows:
            raise InvalidRequest("the prompt file has no row", details={"field": "data"})
        self._function = function
        self._rows = rows
        for number, row in enumerate(rows):
            _check_columns(function, row, number)

    @property
    def rows(self) -> Sequence[PromptTask]:
        """The prompts, by task."""
        return self._rows

    def tasks(self) -> int:
        return len(self._rows)

    async def start(self, task: int, seed: int) -> Episode:
        del seed
        if not 0 <= task < len(self._rows):
            raise InvalidRequest.of("task", task, f"0 to {len(self._rows) - 1}")
        return _RewardEpisode(self._function, self._rows[task])


class _RewardEpisode(Episode):
    def __init__(self, function: RewardFunction, row: PromptTask) -> None:
        self._function = function
        self._row = row

    async def begin(self) -> Observation:
        return Observation(self._row.messages)

    async def step(self, message: Message) -> Feedback:
        # a copy for each call: a function may change what it is given, and rewards must not depend on their order
        row = deepcopy((self._row.prompt, dict(self._row.columns)))
        call = partial(self._function, row[0], message.text(), **row[1])
        value = call() if inspect.iscoroutinefunction(self._function) else await in_own_thread(call)
        if inspect.isawaitable(value):
            value = await value
        return Feedback(checked_reward(value), done=True)


def checked_reward(value: object) -> float:
    """Return a reward as a float.

    Raises:
        EnvironmentFailed: it is no number, NaN, or beyond ``MAX_REWARD``.
    """
    return _checked("a reward", value, MAX_REWARD)


def checked_metric(name: str, value: object) -> float:
    """Return a metric as a float.

    Raises:
        EnvironmentFailed: it is no number, NaN, or beyond ``MAX_METRIC``.
    """
    return _checked(f"the metric {name:.200}", value, MAX_METRIC)


def _checked(what: str, value: object, limit: float) -> float:
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        raise EnvironmentFailed(f"{what} must be a number, not {type(value).__name__}")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise EnvironmentFailed(f"{what} must be a number: {error}") from error
    if not math.isfinite(number):
        raise EnvironmentFailed(f"{what} must be finite, not {number}")
    if abs(number) > limit:
        raise EnvironmentFailed(f"{what} must be from {-limit:g} to {limit:g}, not {number:g}")
    return number


def _check_columns(function: RewardFunction, row: PromptTask, number: int) -> None:
    try:
        inspect.signature(function).bind(row.prompt, "", **row.columns)
    except TypeError as error:
        columns = ", ".join(["prompt", *row.columns])
        raise InvalidRequest(
            f"environment.reward: it cannot be called with row {number + 1}, of the columns {columns}: {error}",
            details={"field": "environment.reward", "row": number + 1},
        ) from None
