"""Environments of the package verifiers for the tests of its adapter: one answer, several turns, and tools."""

from typing import Any

import verifiers as vf
from datasets import Dataset

ROWS = [{"question": f"{number}+1?", "answer": str(number + 1)} for number in range(3)]


async def right(completion: Any, answer: str, **_: Any) -> float:
    """Whether the last message has the answer."""
    return float(answer in str(completion[-1].get("content")))


async def given(**_: Any) -> float:
    """A reward that needs no answer."""
    return 0.5


def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


class Patient(vf.MultiTurnEnv):
    """Asks again until the answer has come three times."""

    async def env_response(self, messages: Any, state: Any, **_: Any) -> Any:
        return [{"role": "user", "content": f"Are you sure? {len(messages)}"}]


class Broken(vf.SingleTurnEnv):
    """Fails before it asks: with an error of the package, or another."""

    def __init__(self, error: Exception, **settings: Any) -> None:
        super().__init__(**settings)
        self.error = error

    async def setup_state(self, state: Any) -> Any:
        raise self.error


class Known(vf.SingleTurnEnv):
    """Ends before it asks."""

    @vf.stop
    async def answered(self, state: Any) -> bool:
        return True


def load_environment(kind: str = "single") -> vf.Environment:
    """The environment of this module."""
    data = Dataset.from_list(ROWS)
    rubric = vf.Rubric(funcs=[right], weights=[2.0])
    if kind == "tools":
        return vf.ToolEnv(tools=[add], dataset=data, rubric=rubric, max_turns=3)
    if kind == "patient":
        return Patient(dataset=data, rubric=rubric, max_turns=3)
    if kind == "group":

        async def ranks(completions: Any, **_: Any) -> list[float]:
            return [float(len(each)) for each in completions]

        return vf.SingleTurnEnv(dataset=data, rubric=vf.Rubric(funcs=[ranks]))
    if kind in ("failed", "crashed"):
        error = vf.ToolError("no room") if kind == "failed" else OSError("no room")
        return Broken(error, dataset=data, rubric=rubric)
    if kind == "known":
        return Known(dataset=data, rubric=vf.Rubric(funcs=[given]))
    return vf.SingleTurnEnv(dataset=data, rubric=rubric)
