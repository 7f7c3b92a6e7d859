"""A tournament of answers that a reward model judges, as an environment; and how often it prefers them to known
ones.

The questions are those of ``preferences.jsonl`` beside this file. ``python examples/tournament.py`` makes the rows
of ``comparisons.jsonl`` of it, on which the reward model is trained.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

from crucible.environments import ChatModel, Environment, Episode, Feedback, GroupEnvironment, Observation
from crucible.errors import InvalidRequest
from crucible.prompt import Message

FOLDER = Path(__file__).parent
ROWS = [json.loads(line) for line in (FOLDER / "preferences.jsonl").read_text().splitlines()]


def compared(question: str, first: str, second: str) -> list[dict[str, str]]:
    """A question with two answers, of which the reward model says A or B."""
    text = f"Which answer is better?\n{question}\nA: {first}\nB: {second}"
    return [{"role": "user", "content": text}]


def comparison(row: Mapping[str, str], *, swapped: bool) -> dict[str, Any]:
    """A row of training data for the reward model: the better answer is A, or with ``swapped`` B."""
    answers = (row["rejected"], row["chosen"]) if swapped else (row["chosen"], row["rejected"])
    choices = {"A": float(not swapped), "B": float(swapped)}
    return {"prompt": compared(row["prompt"], *answers), "choices": choices}


class Judged(Environment):
    """Answers to the questions, which a model that the job names ``judge`` compares."""

    _judge: ChatModel

    def tasks(self) -> int:
        return len(ROWS)

    def model_names(self) -> Sequence[str]:
        return ("judge",)

    def use_models(self, models: Mapping[str, ChatModel]) -> None:
        self._judge = models["judge"]

    async def better(self, question: str, first: str, second: str) -> float:
        """Return 1 if the second answer is better than the first, -1 if it is worse, else 0."""
        messages = [Message.model_validate(message) for message in compared(question, first, second)]
        verdict = await self._judge.answer(messages, seed=0, max_tokens=1, temperature=0.0)
        return {"A": -1.0, "B": 1.0}.get(verdict.text().strip(), 0.0)

    def row(self, task: int) -> Mapping[str, str]:
        """Return the row of a task."""
        if not 0 <= task < len(ROWS):
            raise InvalidRequest.of("task", task, f"0 to {len(ROWS) - 1}")
        found: Mapping[str, str] = ROWS[task]
        return found


class Tournament(Judged, GroupEnvironment):
    """All answers of a group against each other, both ways: the reward is the part of wins less that of defeats."""

    async def start_group(self, task: int, seed: int, size: int) -> Sequence[Episode]:
        return [_Answer(self.row(task)["prompt"]) for _ in range(size)]

    async def group_rewards(
        self, transcripts: Sequence[Sequence[Message]], rewards: Sequence[float]
    ) -> list[float]:
        scores = [0.0] * len(transcripts)
        for one, other in permutations(range(len(transcripts)), 2):
            question = transcripts[one][0].text()
            won = await self.better(question, transcripts[one][-1].text(), transcripts[other][-1].text())
            scores[other] += won
            scores[one] -= won
        return [score / max(2 * (len(scores) - 1), 1) for score in scores]


class WinRate(Judged):
    """The evaluation: an answer against the known one, both ways, from 0 to 1."""

    async def start(self, task: int, seed: int) -> Episode:
        return _Compared(self, self.row(task))


class _Answer(Episode):
    """An answer, whose reward comes at the end of its group."""

    def __init__(self, question: str) -> None:
        self._question = question

    async def begin(self) -> Observation:
        return Observation([Message(role="user", content=self._question)])

    async def step(self, message: Message) -> Feedback:
        return Feedback(0.0, done=True)


class _Compared(_Answer):
    def __init__(self, judge: Judged, row: Mapping[str, str]) -> None:
        super().__init__(row["prompt"])
        self._judge, self._row = judge, row

    async def step(self, message: Message) -> Feedback:
        question, known = self._row["prompt"], self._row["chosen"]
        as_second = await self._judge.better(question, known, message.text())
        as_first = -await self._judge.better(question, message.text(), known)
        return Feedback((as_second + as_first + 2) / 4, done=True)


if __name__ == "__main__":
    rows = [comparison(row, swapped=swapped) for row in ROWS for swapped in (False, True)]
    (FOLDER / "comparisons.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
