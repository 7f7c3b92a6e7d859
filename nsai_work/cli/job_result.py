"""A job's result as names and values for a person."""

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

UNREMARKABLE = {"recoveries": 0, "resume": "fresh"}


def result_facts(result: Mapping[str, JsonValue] | None) -> list[tuple[str, Any]]:
    """What is worth showing: the answer of a completion, else whatever is a single value."""
    if result is None:
        return []
    if "choices" in result:
        return _completion_facts(result)
    return [
        (name.replace("_", " "), value)
        for name, value in result.items()
        if not isinstance(value, dict | list) and UNREMARKABLE.get(name) != value
    ]


def _completion_facts(result: Mapping[str, JsonValue]) -> list[tuple[str, Any]]:
    from crucible.completion import Completion

    completion = Completion.model_validate(result)
    used = completion.usage.total_tokens if completion.usage else None
    answers = [("answer", choice.message.text()) for choice in completion.choices]
    return [*answers, ("model", completion.model), ("tokens", used)]
