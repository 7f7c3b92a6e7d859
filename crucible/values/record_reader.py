"""Parsing of foreign data into records, with errors that name the field."""

from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from crucible.errors import InvalidRequest
from crucible.values.field_names import fields_beside
from crucible.values.record import Record
from crucible.values.scalars import joined, problem_of
from crucible.values.suggestions import known_names
from crucible.values.union_errors import plain_errors

R = TypeVar("R", bound=Record)


def read_record(kind: type[R], data: object, *, backend: str | None = None) -> R:
    """Validate ``data``, an object parsed from JSON, into a record.

    Raises:
        InvalidRequest: a field is invalid. The message names the first one, its value and what is allowed;
            ``details["errors"]`` lists all of them.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as exc:
        raise _translate(exc, kind, backend) from exc


def read_json(kind: type[R], text: str | bytes, *, backend: str | None = None) -> R:
    """Parse JSON text into a record. Raises as ``read_record``."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as exc:
        raise _translate(exc, kind, backend) from exc


def _translate(exc: ValidationError, kind: type[Record], backend: str | None) -> InvalidRequest:
    problems = plain_errors(exc)
    fields = [_field(problem) or kind.__name__ for problem in problems]
    first = problems[0]
    value = _showable(fields[0], first.get("input"))
    error = InvalidRequest.of(fields[0], value, _message(first, kind), backend=backend)
    error.details["errors"] = [
        {"field": field, "message": _message(problem, kind)}
        for field, problem in zip(fields, problems, strict=True)
    ]
    return error


def _showable(field: str, value: object) -> object:
    """A value as an error may show it: only the field names of an object, and nothing of a secret."""
    if isinstance(value, dict):
        return sorted(str(name) for name in value)
    name = field.rpartition(".")[2].lower()
    if name.endswith("tokens") and isinstance(value, int | float):
        return value  # a number of tokens, as max_tokens
    return "(hidden)" if any(mark in name for mark in ("key", "secret", "token", "password")) else value


def _field(problem: ErrorDetails) -> str:
    return joined(_path(problem["loc"]), problem_of(problem)[0])


def _message(problem: ErrorDetails, kind: type[Record]) -> str:
    if problem["type"] == "extra_forbidden":
        location = problem["loc"]
        return f"unknown field; {known_names(location[-1], fields_beside(kind, location))}"
    return problem_of(problem)[1]


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else str(step)
    return path
