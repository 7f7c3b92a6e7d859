"""Hooks for the in-memory service: faults at a given event of a given step."""

import math
from collections.abc import Callable
from typing import Any

from crucible.errors import (
    RunCorrupted,
)
from crucible.training import IntentKind, StepResult

Hook = Callable[[str, dict[str, Any]], None]


def once(event: str, step: int, act: Callable[[dict[str, Any]], None], times: int = 1) -> Hook:
    """A hook that acts at an event of an operation of a step, the first so many times."""
    left = [times]

    def hook(seen: str, details: dict[str, Any]) -> None:
        intent = details.get("intent")
        ours = intent is not None and intent.step == step and intent.kind is IntentKind.STEP
        if seen == event and left[0] and ours:
            left[0] -= 1
            act(details)

    return hook


def throw(error: Exception) -> Callable[[dict[str, Any]], None]:
    """Raise it."""

    def act(details: dict[str, Any]) -> None:
        raise error

    return act


def flag(details: dict[str, Any]) -> None:
    """The service marks the run corrupted."""
    details["run"].corrupted = True


def kill_run(details: dict[str, Any]) -> None:
    """The remote run is gone."""
    details["run"].alive = False


def spoil(details: dict[str, Any]) -> None:
    """The run's weights become NaN, and no flag says so."""
    model = details["run"].model
    model.weights = [math.nan for _ in model.weights]
    digest, outcome = details["run"].record[details["intent"].first_seq_id]
    if isinstance(outcome, StepResult):
        details["run"].record[details["intent"].first_seq_id] = (digest, StepResult(math.nan, 1, {}))
        raise RunCorrupted("the loss is nan")
