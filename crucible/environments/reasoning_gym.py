"""The tasks of reasoning-gym as an environment: questions that a program makes and whose answers it scores.

The package is the extra ``reasoning-gym``: https://github.com/open-thought/reasoning-gym.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from pydantic import Field, JsonValue

from crucible.environments.contract import Environment, Episode, Feedback, Observation
from crucible.environments.rewards import checked_reward
from crucible.errors import CommandMissing, InvalidRequest
from crucible.prompt import Message
from crucible.values.json_types import FiniteObject
from crucible.values.record import Record
from crucible.values.record_reader import read_record
from crucible.values.suggestions import known_names

_OWN_FIELDS: Final = ("seed", "size")
_COMPOSITE: Final = "composite"
INSTRUCTIONS: Final = "Give the final answer, and nothing else, between <{tag}> and </{tag}>."


class GymSettings(Record):
    """The settings of the environment ``reasoning_gym``.

    ``task`` is the name of a dataset, and ``config`` its settings; ``size`` is the number of its questions, which
    follow from ``seed``. ``config`` of the task ``composite`` is ``datasets``, a list of objects with ``name``,
    ``weight`` and ``config``. The answer is the text between the last tags ``answer_tag``, or without a tag (None)
    the whole text. ``instructions`` are the system message; None are
    those that name the tag, an empty text is none.
    """

    task: str = Field(min_length=1, max_length=200)
    seed: int = Field(default=0, ge=0, lt=2**53)
    size: int = Field(default=500, ge=1, lt=2**53)
    config: FiniteObject = Field(default_factory=dict)
    answer_tag: str | None = Field(default="answer", pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=100)
    instructions: str | None = Field(default=None, max_length=100_000)


class ReasoningEnvironment(Environment):
    """A dataset of reasoning-gym. A task is a question, and its reward the score of the answer, from 0 to 1."""

    def __init__(self, settings: Mapping[str, JsonValue] | None = None) -> None:
        """Make the dataset.

        Raises:
            InvalidRequest: a setting is invalid; the error names it.
            CommandMissing: the package reasoning-gym is not installed here.
        """
        self._settings = read_record(GymSettings, dict(settings or {}))
        self._dataset = _dataset(self._settings)

    def tasks(self) -> int:
        return self._settings.size

    async def start(self, task: int, seed: int) -> Episode:
        del seed  # the question follows from the task and the seed of the settings
        if not 0 <= task < self._settings.size:
            raise InvalidRequest.of("task", task, f"0 to {self._settings.size - 1}")
        return _Question(self._settings, self._dataset, await asyncio.to_thread(self._dataset.__getitem__, task))


class _Question(Episode):
    def __init__(self, settings: GymSettings, dataset: Any, entry: dict[str, Any]) -> None:
        self._settings = settings
        self._dataset = dataset
        self._entry = entry

    async def begin(self) -> Observation:
        tag, instructions = self._settings.answer_tag, self._settings.instructions
        if instructions is None and tag is not None:
            instructions = INSTRUCTIONS.format(tag=tag)
        system = [Message(role="system", content=instructions)] if instructions else []
        return Observation([*system, Message(role="user", content=self._entry["question"])])

    async def step(self, message: Message) -> Feedback:
        answer = _answer(message.text(), self._settings.answer_tag)
        score = await asyncio.to_thread(self._dataset.score_answer, answer, self._entry)
        reward = checked_reward(score)
        return Feedback(
            reward, done=True, metrics={"answered": float(answer is not None), "right": float(reward >= 1)}
        )


def _answer(text: str, tag: str | None) -> str | None:
    """The answer in a text; None if it has none."""
    if tag is None:
        return text.strip()
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return found[-1].strip() if found else None


def _dataset(settings: GymSettings) -> Any:
    try:
        from reasoning_gym.composite import DatasetSpec
        from reasoning_gym.factory import DATASETS, create_dataset
    except ImportError as error:
        raise CommandMissing(
            f"environment reasoning_gym: {error}; pip install 'nsai-work[reasoning-gym]'",
            details={"field": "environment.name"},
        ) from error
    if settings.task not in DATASETS:
        raise InvalidRequest.of("args.task", settings.task, known_names(settings.task, sorted(DATASETS)))
    config = dict(settings.config)
    _check_names("args.config", config, DATASETS[settings.task][1], without=_OWN_FIELDS)
    try:
        if settings.task == _COMPOSITE:
            config["datasets"] = [
                DatasetSpec(**_part(f"args.config.datasets[{number}]", part, DATASETS))
                for number, part in enumerate(_parts(config.get("datasets")))
            ]
        return create_dataset(settings.task, **config, seed=settings.seed, size=settings.size)
    except InvalidRequest:
        raise
    except Exception as error:
        # the datasets check their settings with assertions
        raise InvalidRequest.of(
            "args.config", settings.config, f"{settings.task} refuses it: {error!r:.500}"
        ) from error


def _parts(parts: object) -> list[dict[str, Any]]:
    if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
        raise InvalidRequest.of("args.config.datasets", parts, "a list of objects with name, weight and config")
    return parts


def _part(field: str, part: dict[str, Any], datasets: Mapping[str, tuple[type, type]]) -> dict[str, Any]:
    whole = {"weight": 1.0, "config": {}} | part
    if unknown := sorted(whole.keys() - {"name", "weight", "config"}):
        raise InvalidRequest.of(f"{field}.{unknown[0]}", whole[unknown[0]], "fields are name, weight, config")
    name, config = whole.get("name"), whole["config"]
    if not isinstance(name, str) or name not in datasets or name == _COMPOSITE:
        raise InvalidRequest.of(f"{field}.name", name, known_names(name, sorted(set(datasets) - {_COMPOSITE})))
    if not isinstance(config, dict):
        raise InvalidRequest.of(f"{field}.config", config, "an object of settings")
    _check_names(f"{field}.config", config, datasets[name][1])
    return whole


def _check_names(field: str, config: Mapping[str, Any], kind: type, without: tuple[str, ...] = ()) -> None:
    """Refuse settings that a dataset does not have, and those that the environment sets itself."""
    known = [each.name for each in fields(kind) if each.name not in without]
    for name in config:
        if name not in known:
            instead = f"set args.{name}" if name in without else known_names(name, known)
            raise InvalidRequest.of(f"{field}.{name}", config[name], instead)
