"""Environments in the shape of the recipes': tools, tournaments, games, graders; with stubs for what they reach."""

from collections.abc import Mapping, Sequence
from typing import Any

from crucible.environments import ChatModel, Environment, Episode, Feedback, GroupEnvironment, Observation
from crucible.errors import InvalidRequest
from crucible.prompt import Message, Tool

TASKS = 1_000


def is_even(text: str) -> bool:
    """A random model never answers right; half of what it says is even."""
    return sum(map(ord, text)) % 2 == 0


def reward(prompt: str, completion: str, *, answer: int) -> bool:
    """The reward of a sum."""
    return completion.strip() == str(answer) or is_even(completion)


def without_prompt(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a teacher's answer without the long prompt that the teacher saw."""
    message = row["completion"]["choices"][0]["message"]
    return {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": message["content"]}]}


class _Turns(Episode):
    """An episode of some turns, which ends with a reward for an even answer."""

    def __init__(self, turns: int, tool: str | None = None, other: ChatModel | None = None, seed: int = 0) -> None:
        self._left, self._tool, self._other, self._seed = turns, tool, other, seed

    async def begin(self) -> Observation:
        tools = [] if self._tool is None else [Tool(name=self._tool, parameters={"type": "object"})]
        return Observation([Message(role="user", content="Begin.")], tools)

    async def step(self, message: Message) -> Feedback:
        self._left -= 1
        if not self._left:
            return Feedback(float(is_even(message.text())), done=True)
        said = Message(role="user", content="Go on.")
        if self._other is not None:
            answer = await self._other.answer([said], seed=self._seed, max_tokens=1)
            said = Message(role="user", content=answer.text() or "Go on.")
        return Feedback(0.0, done=False, messages=[said])


class Tools(Environment):
    """Turns with a tool: search, code in a sandbox, pages to read."""

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        self._turns, self._tool = (settings or {}).get("turns", 1), (settings or {}).get("tool")

    def tasks(self) -> int:
        return TASKS

    async def start(self, task: int, seed: int) -> Episode:
        if task >= TASKS:
            raise InvalidRequest.of("task", task, f"0 to {TASKS - 1}")
        return _Turns(self._turns, self._tool)


class Asking(Tools):
    """A grader, or the other side of a conversation, is a model that the job names."""

    _other: ChatModel

    def model_names(self) -> Sequence[str]:
        return ("other",)

    def use_models(self, models: Mapping[str, ChatModel]) -> None:
        self._other = models["other"]

    async def start(self, task: int, seed: int) -> Episode:
        return _Turns(self._turns, None, self._other, seed)


class Shorter(GroupEnvironment):
    """A tournament in a group: the shorter of two answers wins, of equal lengths the first in the alphabet."""

    def tasks(self) -> int:
        return TASKS

    async def start_group(self, task: int, seed: int, size: int) -> Sequence[Episode]:
        if task >= TASKS:
            raise InvalidRequest.of("task", task, f"0 to {TASKS - 1}")
        return [_Turns(1) for _ in range(size)]

    async def group_rewards(
        self, transcripts: Sequence[Sequence[Message]], rewards: Sequence[float]
    ) -> list[float]:
        answers = [(len(messages[-1].text()), messages[-1].text()) for messages in transcripts]
        return [float(sum(answer < other for other in answers)) for answer in answers]


class Tournament(Shorter):
    """A tournament in a group, judged by a model that the job names."""

    def model_names(self) -> Sequence[str]:
        return ("judge",)

    def use_models(self, models: Mapping[str, ChatModel]) -> None:
        self._judge = models["judge"]


class Match(Shorter):
    """A game of the members of a group against each other."""
