"""Runs a scenario of answers through a backend and compares what comes of it."""

from collections.abc import Set
from typing import Any

import pytest

from crucible import Backend, Completion, CrucibleError, Prompt, collect
from crucible.testing.loop import run_opened
from tests.contract.answer_forms import Scenario
from tests.contract.answer_server import AnswerServer

PROMPT = Prompt.model_validate({"messages": [{"role": "user", "content": "Hi there"}], "options": {"model": "m"}})


def judge(
    backend: Backend,
    server: AnswerServer,
    scenario: Scenario,
    prompt: Prompt = PROMPT,
    ignored: Set[str] = frozenset(),
) -> None:
    """Check what the backend makes of the scenario, whole and streamed. Fields in ``ignored`` are not compared."""
    outcomes: list[Completion] = []

    def complete() -> Completion:
        return run_opened(backend, lambda opened: opened.complete(prompt))

    def stream() -> Completion:
        return run_opened(backend, lambda opened: collect(opened.stream(prompt)))

    if scenario.whole is not None:
        server.whole = scenario.whole
        _check(complete, scenario.with_received(None), outcomes, ignored)
    if scenario.streamed is not None:
        server.streamed = scenario.streamed
        _check(stream, scenario, outcomes, ignored)
    if len(outcomes) == 2:
        first, second = (_without(outcome.model_dump(mode="json"), ignored) for outcome in outcomes)
        assert first["choices"] == second["choices"]
        assert first["usage"] == second["usage"]


def _without(value: Any, ignored: Set[str]) -> Any:
    if isinstance(value, dict):
        return {name: _without(item, ignored) for name, item in value.items() if name not in ignored}
    return [_without(item, ignored) for item in value] if isinstance(value, list) else value


def _check(run: Any, scenario: Scenario, outcomes: list[Completion], ignored: Set[str]) -> None:
    if scenario.error is not None:
        with pytest.raises(CrucibleError) as caught:
            run()
        error = caught.value
        assert isinstance(error, scenario.error), repr(error)
        assert type(error).__module__ == "crucible.errors"
        assert scenario.says in str(error)
        assert error.backend is not None
        assert scenario.received is None or error.details.get("received") == scenario.received
        assert error.failure()
        return
    completion = run()
    assert scenario.choices is not None
    assert len(completion.choices) == len(scenario.choices)
    for choice, expected in zip(completion.choices, scenario.choices, strict=True):
        _matches(choice.model_dump(mode="json"), _without(expected, ignored), "choice")
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
