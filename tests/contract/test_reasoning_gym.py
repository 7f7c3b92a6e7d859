"""The environment of reasoning-gym keeps the contract, in any process; its settings are checked."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("reasoning_gym")

from reasoning_gym.factory import DATASETS

from crucible.environments import Environment, load_environment
from crucible.environments.reasoning_gym import ReasoningEnvironment
from crucible.errors import InvalidRequest
from crucible.prompt import Message
from crucible.testing import EnvironmentContract

ROOT = Path(__file__).parents[2]
QUESTIONS = """
import json, sys
from crucible.environments.reasoning_gym import ReasoningEnvironment
gyms = [ReasoningEnvironment({"task": task, "seed": 3, "size": 3}) for task in json.loads(sys.argv[1])]
print(json.dumps([[gym._dataset[n]["question"] for n in range(3)] for gym in gyms]))
"""
SLOW = {"arc_agi", "puzzle24", "quantum_lock", "rearc", "sokoban", "sudoku", "zebra_puzzles"}
"""They take seconds to make some questions, or to load."""

UNREPEATABLE = {
    *("isomorphic_strings", "knight_swap", "list_functions"),
    *("polynomial_multiplication", "ransom_note", "word_ladder"),
}
"""They iterate over sets, whose order is the process's, so that some of their questions are not repeated."""


class TestReasoningGym(EnvironmentContract):
    """A dataset of one kind of question."""

    @pytest.fixture
    def environment(self) -> Environment:
        return ReasoningEnvironment({"task": "gcd", "seed": 1})

    def answers(self, task: int) -> Sequence[str]:
        return ("<answer>1</answer>", "1")


class TestComposite(EnvironmentContract):
    """A mixture of datasets."""

    @pytest.fixture
    def environment(self) -> Environment:
        parts = [{"name": "gcd", "weight": 2}, {"name": "leg_counting", "config": {"max_animals": 3}}]
        return ReasoningEnvironment({"task": "composite", "size": 20, "config": {"datasets": parts}})


def test_the_right_answer_has_the_whole_reward() -> None:
    """In the last tags; without tags there is no answer, unless the whole text is one."""
    gym = ReasoningEnvironment({"task": "gcd", "seed": 1})
    right = gym._dataset[4]["answer"]
    whole = ReasoningEnvironment({"task": "gcd", "seed": 1, "answer_tag": None})

    assert _reward(gym, f"<answer>0</answer> no: <answer> {right}\n</answer>") == (1.0, {"answered": 1, "right": 1})
    assert _reward(gym, right) == (0.0, {"answered": 0, "right": 0})
    assert _reward(whole, f" {right}\n") == (1.0, {"answered": 1, "right": 1})


def test_the_instructions_name_the_tag() -> None:
    """By default; they may be others, or none."""

    async def first(**settings: Any) -> list[tuple[str, str]]:
        observation = await (await ReasoningEnvironment({"task": "gcd", **settings}).start(0, 0)).begin()
        return [(message.role, message.text()[:20]) for message in observation.messages]

    assert [role for role, _ in asyncio.run(first())] == ["system", "user"]
    assert asyncio.run(first(instructions="Be brief."))[0] == ("system", "Be brief.")
    assert [role for role, _ in asyncio.run(first(instructions=""))] == ["user"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "task"),
        ({"task": "gdc"}, "did you mean gcd?"),
        ({"task": "gcd", "sed": 1}, "did you mean seed?"),
        ({"task": "gcd", "seed": -1}, "seed"),
        ({"task": "gcd", "config": {"max_valu": 3}}, "did you mean max_value?"),
        ({"task": "gcd", "config": {"seed": 3}}, "set args.seed"),
        ({"task": "gcd", "config": {"min_value": 9, "max_value": 3}}, "gcd refuses it"),
        ({"task": "gcd", "config": {"min_value": "many"}}, "gcd refuses it"),
        ({"task": "gcd", "answer_tag": "a)(b"}, "answer_tag"),
        ({"task": "composite"}, "args.config.datasets"),
        ({"task": "composite", "config": {"datasets": [{"name": "gdc"}]}}, "datasets[0].name"),
        ({"task": "composite", "config": {"datasets": [{"name": "gcd", "wight": 1}]}}, "datasets[0].wight"),
        ({"task": "composite", "config": {"datasets": [{"name": "gcd", "weight": -1}]}}, "composite refuses it"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    """By name, with what is allowed, when a job is submitted."""
    with pytest.raises(InvalidRequest) as refused:
        load_environment("reasoning_gym", settings)
    assert said in refused.value.message


def test_questions_are_the_same_in_any_process() -> None:
    """Whatever the process's hash seed, but those of the datasets that the guide names."""
    guide = (ROOT / "docs" / "howto" / "write-an-environment.md").read_text()
    assert all(f"`{name}`" in guide for name in UNREPEATABLE)
    names = sorted(DATASETS.keys() - SLOW - {"composite"})
    first, second = [_questions(names, hash_seed) for hash_seed in ("1", "2")]
    differ = {name for name, one, other in zip(names, first, second, strict=True) if one != other}
    assert differ
    assert differ <= UNREPEATABLE


def _questions(names: list[str], hash_seed: str) -> list[list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", QUESTIONS, json.dumps(names)],
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    # a dataset prints a progress of its own
    return list(json.loads(done.stdout.splitlines()[-1].lstrip(".")))


def _reward(gym: ReasoningEnvironment, text: str) -> tuple[float, dict[str, float]]:
    async def run() -> tuple[float, dict[str, float]]:
        episode = await gym.start(4, 0)
        await episode.begin()
        feedback = await episode.step(Message(role="assistant", content=text))
        return feedback.reward, dict(feedback.metrics)

    return asyncio.run(run())
