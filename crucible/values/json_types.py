"""Types for JSON values that every layer can hold: JSON itself, both databases, the broker, services and terminals.

Refused are NaN and infinities, integers beyond 64 bits, lone surrogates, values of other types, and nesting beyond
``MAX_JSON_DEPTH``.
"""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, JsonValue
from pydantic_core import PydanticCustomError

MAX_JSON_DEPTH: Final = 100
JSON_ERROR: Final = "json_value"
"""The type of the validation error. Its context has the ``path`` of the value inside the field."""

BIG_INTEGER: Final = "integers have at most 64 bits; use text"
"""The problem of an integer beyond 64 bits."""

_MIN_INT64: Final = -(2**63)
_MAX_INT64: Final = 2**63 - 1
_PLAIN_NAME: Final = re.compile(r"[\w-]{1,60}")


def json_problem(value: object) -> tuple[str, str] | None:
    """Return the path of the first value that is not allowed, and what is wrong with it; None if all are allowed.

    Takes no recursion, so that any nesting is a result and not an error.
    """
    if isinstance(value, dict) and not value:
        return None
    pending: list[tuple[str, object, int]] = [("", value, 1)]
    while pending:
        path, item, depth = pending.pop()
        problem = _problem_of(item, depth)
        if problem is not None:
            return path, problem
        if isinstance(item, str | int | float | None):
            continue
        if isinstance(item, Mapping):
            for key, child in item.items():
                if not isinstance(key, str):
                    return path, f"the name {ascii(key)[:40]} is not text"
                if not is_encodable(key):
                    return path, f"the name {ascii(key)[:40]} contains a lone surrogate"
                pending.append((f"{path}.{_shown_key(key)}" if path else _shown_key(key), child, depth + 1))
        elif isinstance(item, list | tuple):
            pending.extend((f"{path}[{index}]", child, depth + 1) for index, child in enumerate(item))
    return None


def _problem_of(item: object, depth: int) -> str | None:
    match item:
        case None | bool():
            return None
        case str():
            return None if is_encodable(item) else f"must not contain a lone surrogate (got {ascii(item)[:60]})"
        case int():
            return None if _MIN_INT64 <= item <= _MAX_INT64 else BIG_INTEGER
        case float():
            return None if math.isfinite(item) else f"{item} is not valid JSON; use null or text"
        case dict() | list() | tuple() | Mapping():  # the abstract class last: its check is the slow one
            return None if depth <= MAX_JSON_DEPTH else f"is nested deeper than {MAX_JSON_DEPTH} levels"
        case _:
            return f"a {type(item).__name__} is not a JSON value"


def _shown_key(key: str) -> str:
    return key if _PLAIN_NAME.fullmatch(key) else ascii(key)[:62]


def is_encodable(text: str) -> bool:
    """Return whether a text contains no lone surrogate."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_json(value: Any) -> Any:
    """Return a value that is JSON as defined above. Raises PydanticCustomError otherwise."""
    found = json_problem(value)
    if found is not None:
        path, problem = found
        raise PydanticCustomError(JSON_ERROR, "{problem}", {"path": path, "problem": problem})
    return value


FiniteJson = Annotated[JsonValue, BeforeValidator(check_json)]
"""A JSON value."""

FiniteObject = Annotated[dict[str, JsonValue], BeforeValidator(check_json)]
"""A JSON object."""


def to_json(value: object, depth: int = 1) -> JsonValue:
    """Convert any value to JSON, for errors and events, which must never fail themselves.

    What JSON cannot hold becomes text: ``NaN``, an integer beyond 64 bits in hexadecimal, the repr of other types.
    """
    match value:
        case None | bool():
            return value
        case str():
            return value if is_encodable(value) else value.encode(errors="replace").decode()
        case int():
            return value if _MIN_INT64 <= value <= _MAX_INT64 else _shortened(hex(value))
        case float():
            return value if math.isfinite(value) else "NaN" if math.isnan(value) else f"{value}"
    if depth > MAX_JSON_DEPTH:
        return "..."
    match value:
        case Mapping():
            return {str(to_json(str(key))): to_json(item, depth + 1) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [to_json(item, depth + 1) for item in value]
        case _:
            return _shortened(ascii(value))


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else text[:197] + "..."
