"""Reading a record from foreign data, with an error of our family that names the field."""

from typing import TypeVar

from pydantic import ValidationError

from crucible.errors import InvalidRequest
from crucible.record import Record

R = TypeVar("R", bound=Record)


def read_record(kind: type[R], data: object, *, backend: str | None = None) -> R:
    """``data`` (an object as parsed from JSON) as a record.

    Raises:
        InvalidRequest: naming the first field that is wrong, its value and what is allowed; ``details["errors"]``
            lists the rest as well.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as exc:
        raise _translate(exc, kind.__name__, backend) from exc


def read_json(kind: type[R], text: str | bytes, *, backend: str | None = None) -> R:
    """The same from JSON text."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as exc:
        raise _translate(exc, kind.__name__, backend) from exc


def _translate(exc: ValidationError, kind: str, backend: str | None) -> InvalidRequest:
    problems = exc.errors(include_url=False, include_context=False)
    fields = [_place(problem["loc"]) or kind for problem in problems]
    first = problems[0]
    value = _showable(fields[0], first.get("input"))
    error = InvalidRequest.of(fields[0], value, first["msg"].removeprefix("Value error, "), backend=backend)
    error.details["errors"] = [
        {"field": field, "message": problem["msg"]} for field, problem in zip(fields, problems, strict=True)
    ]
    return error


def _showable(field: str, value: object) -> object:
    """A value as an error may carry it: of an object only its field names, of a secret nothing."""
    if isinstance(value, dict):
        return sorted(str(name) for name in value)
    name = field.rpartition(".")[2].lower()
    return "(hidden)" if any(mark in name for mark in ("key", "secret", "token", "password")) else value


def _place(location: tuple[int | str, ...]) -> str:
    place = ""
    for step in location:
        place += f"[{step}]" if isinstance(step, int) else f".{step}" if place else str(step)
    return place
