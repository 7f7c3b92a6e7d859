"""Runs a scenario of answers through a backend and compares what comes of it."""

from typing import Any

import pytest

from crucible import Backend, Completion, CrucibleError, Prompt, collect
from crucible.testing.loop import run_opened
from tests.contract.answer_forms import Scenario
from tests.contract.answer_server import AnswerServer

PROMPT = Prompt.model_validate({"messages": [{"role": "user", "content": "Hi there"}], "options": {"model": "m"}})


def judge(backend: Backend, server: AnswerServer, scenario: Scenario, prompt: Prompt = PROMPT) -> None:
    """Check what the backend makes of the scenario, whole and streamed."""
    outcomes: list[Completion] = []
    if scenario.whole is not None:
        server.whole = scenario.whole
        _check(
            lambda: run_opened(backend, lambda opened: opened.complete(prompt)), scenario, outcomes, received=None
        )
    if scenario.streamed is not None:
        server.streamed = scenario.streamed
        _check(
            lambda: run_opened(backend, lambda opened: collect(opened.stream(prompt))),
            scenario,
            outcomes,
            received=scenario.received,
        )
    if len(outcomes) == 2:
        assert outcomes[0].choices == outcomes[1].choices
        assert outcomes[0].usage == outcomes[1].usage


def _check(run: Any, scenario: Scenario, outcomes: list[Completion], *, received: str | None) -> None:
    if scenario.error is not None:
        with pytest.raises(CrucibleError) as caught:
            run()
        error = caught.value
        assert isinstance(error, scenario.error), repr(error)
        assert type(error).__module__ == "crucible.errors"
        assert scenario.says in str(error)
        assert error.backend is not None
        assert received is None or error.details.get("received") == received
        assert error.failure()
        return
    completion = run()
    assert scenario.choices is not None
    assert len(completion.choices) == len(scenario.choices)
    for choice, expected in zip(completion.choices, scenario.choices, strict=True):
        _matches(choice.model_dump(mode="json"), expected, "choice")
    _matches(completion.usage.model_dump(mode="json"), scenario.usage or {}, "usage")
    outcomes.append(completion)


def _matches(found: Any, expected: Any, where: str) -> None:
    """Fields that are expected must be found; others are not compared."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for name, value in expected.items():
            _matches(found[name], value, f"{where}.{name}")
    elif isinstance(expected, list) and isinstance(found, list):
        assert len(found) == len(expected), where
        for index, (item, value) in enumerate(zip(found, expected, strict=True)):
            _matches(item, value, f"{where}[{index}]")
    else:
        assert found == expected, where
