"""Environments in the shape of the recipes': tools, tournaments, games, graders; with stubs for what they reach."""

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

from crucible.environments import (
    ChatModel,
    Environment,
    Episode,
    Feedback,
    GroupEnvironment,
    Observation,
    RolloutContext,
    TokenEpisode,
    TokenPrompt,
)
from crucible.errors import InvalidRequest
from crucible.prompt import Message, Tool
from crucible.token_sampler import TokenSample

TASKS = 1_000
KNOWN = "This."
"""An answer to each question, which others are compared with."""


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


def question(task: int) -> str:
    """The question of a task."""
    return f"Which is {task}?"


def compared(task: int, first: str, second: str) -> list[dict[str, str]]:
    """The question with two answers, of which a reward model names the better."""
    return [
        {"role": "user", "content": question(task)},
        {"role": "system", "content": "==== Completion A ===="},
        {"role": "assistant", "content": first},
        {"role": "system", "content": "==== Completion B ===="},
        {"role": "assistant", "content": second},
        {"role": "system", "content": "==== Preference ===="},
    ]


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


class _Answer(TokenEpisode):
    """An answer to a question, of which a tournament must know whether the model ended it."""

    def __init__(self, task: int, prompt: TokenPrompt) -> None:
        self.task, self.stopped = task, False
        self._prompt = prompt

    async def begin(self) -> Observation:
        return Observation(prompt=self._prompt)

    async def step_tokens(self, sample: TokenSample) -> Feedback:
        self.stopped = sample.stopped
        return Feedback(0.0, done=True)


class Judged(Environment):
    """Answers that a reward model compares, which the job names."""

    _judge: ChatModel

    def tasks(self) -> int:
        return TASKS

    def model_names(self) -> Sequence[str]:
        return ("judge",)

    def use_models(self, models: Mapping[str, ChatModel]) -> None:
        self._judge = models["judge"]

    async def preferred(self, task: int, first: str, second: str) -> float:
        """Return -1 if the first answer is better, 1 if the second is."""
        shown = [Message.model_validate(message) for message in compared(task, first, second)]
        verdict = await self._judge.answer(shown, seed=0, max_tokens=1, temperature=0.0)
        return {"A": -1.0, "B": 1.0}.get(verdict.text().strip(), 0.0)


class Tournament(Judged, GroupEnvironment):
    """A tournament in a group: all pairs both ways, less a point for an answer that was cut."""

    def use_context(self, context: RolloutContext) -> None:
        self._tokenizer = context.tokenizer

    async def start_group(self, task: int, seed: int, size: int) -> Sequence[Episode]:
        if task >= TASKS:
            raise InvalidRequest.of("task", task, f"0 to {TASKS - 1}")
        tokens = self._tokenizer.render_prompt([{"role": "user", "content": question(task)}])
        return [_Answer(task, TokenPrompt(tokens, self._tokenizer.stop_tokens)) for _ in range(size)]

    async def group_feedback(
        self, episodes: Sequence[Episode], transcripts: Sequence[Sequence[Message]], rewards: Sequence[float]
    ) -> list[Feedback]:
        members = [episode for episode in episodes if isinstance(episode, _Answer)]
        scores = [0.0] * len(members)
        for first, second in permutations(range(len(members)), 2):
            texts = transcripts[first][-1].text(), transcripts[second][-1].text()
            better = await self.preferred(members[0].task, *texts)
            scores[first] -= better
            scores[second] += better
        matches = max(2 * (len(members) - 1), 1)
        return [
            Feedback(score / matches + float(member.stopped) - 1.0, done=True, metrics={"wins": score / matches})
            for member, score in zip(members, scores, strict=True)
        ]


class _Compared(Episode):
    """An answer, whose reward is how often the reward model prefers it to one that is known."""

    def __init__(self, environment: Judged, task: int) -> None:
        self._environment, self._task = environment, task

    async def begin(self) -> Observation:
        return Observation([Message(role="user", content=question(self._task))])

    async def step(self, message: Message) -> Feedback:
        before = await self._environment.preferred(self._task, KNOWN, message.text())
        after = await self._environment.preferred(self._task, message.text(), KNOWN)
        return Feedback((before - after + 2) / 4, done=True)


class WinRate(Judged):
    """The evaluation of a tournament's model: its answers against those that are known."""

    async def start(self, task: int, seed: int) -> Episode:
        if task >= TASKS:
            raise InvalidRequest.of("task", task, f"0 to {TASKS - 1}")
        return _Compared(self, task)


class Match(Shorter):
    """A game of the members of a group against each other."""
