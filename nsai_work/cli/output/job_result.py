"""A job's result as labeled values, and the line for what a job does not have."""

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from nsai_work.lifecycle import JobStatus

_HIDDEN = {"recoveries": 0, "resume": "fresh", "lost_steps": 0}
"""Values that mean "nothing happened", and are not shown."""


def result_fields(result: Mapping[str, JsonValue] | None) -> list[tuple[str, Any]]:
    """Return the labeled values of a result: the answers of a completion, else every value that is no list and no
    object."""
    if result is None:
        return []
    if "choices" in result:
        return _completion_fields(result)
    return [
        (name.replace("_", " "), value)
        for name, value in result.items()
        if not isinstance(value, dict | list) and _HIDDEN.get(name) != value
    ]


def so_far(status: JobStatus) -> str:
    """The end of a line that says what a job does not have: a job that has ended gets no more of it."""
    return f": the job has ended as {status}" if status.ended else " yet"


def _completion_fields(result: Mapping[str, JsonValue]) -> list[tuple[str, Any]]:
    from crucible.completion import Completion

    completion = Completion.model_validate(result)
    tokens = completion.usage.total_tokens if completion.usage else None
    answers = [("answer", choice.message.text()) for choice in completion.choices]
    return [*answers, ("model", completion.model), ("tokens", tokens)]
