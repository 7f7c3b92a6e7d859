"""Constrained types of values that cross a boundary, shared by all records.

``Record`` itself refuses NaN, infinities and lone surrogates in every field; these types add what depends on the
meaning of a field. Together with ``crucible.values.json_types`` they are the only definition of a storable value.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field
from pydantic_core import ErrorDetails, PydanticKnownError

from crucible.values.json_types import JSON_ERROR, is_encodable, to_json

# C0 and C1 controls, line separators, bidirectional overrides
_CONTROLS: Final = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
_CONTROL: Final = re.compile(f"[{_CONTROLS}]")
_NAME_PATTERN: Final = f"^[^{_CONTROLS}]*$"
_TEXT_PATTERN: Final = r"^[^\x00]*$"
_MESSAGES: Final = {
    _NAME_PATTERN: "must not contain control characters",
    _TEXT_PATTERN: "must not contain NUL",
}


def printable(text: str) -> str:
    """Check that a name can be stored by every database and shown on every terminal, and return it.

    Raises:
        ValueError: it contains a control character, a line separator, a bidirectional override or a lone surrogate.
    """
    found = _CONTROL.search(text)
    if found is not None:
        raise ValueError(f"must not contain control characters ({found[0]!a})")
    if not is_encodable(text):
        raise ValueError("must not contain a lone surrogate")
    return text


def in_utc(moment: datetime) -> datetime:
    """Convert a time to UTC. Raises ValueError if its year there is not 1 to 9999."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("is outside of the years 1 to 9999 in UTC") from None


def _whole(value: object) -> object:
    if isinstance(value, bool | str):
        raise PydanticKnownError("int_type")
    return value


def _real(value: object) -> object:
    # not strict: a number of numpy is one too
    if isinstance(value, bool | str):
        raise PydanticKnownError("float_type")
    return value


def problem_of(error: ErrorDetails) -> tuple[str, str]:
    """Return where inside its field an error of pydantic is, and what is wrong, in the words of this module."""
    if error["type"] == JSON_ERROR:
        return str(error["ctx"]["path"]), str(error["ctx"]["problem"])
    if error["type"] == "model_type":
        return "", "Input should be a mapping of its fields"
    if error["type"] == "tuple_type":
        return "", "Input should be a list"
    if error["type"] == "string_unicode":
        return "", "must not contain a lone surrogate"
    if error["type"] == "string_pattern_mismatch":
        return "", _MESSAGES.get(str(error["ctx"]["pattern"]), error["msg"])
    return "", error["msg"].removeprefix("Value error, ").replace("Tuple should have", "List should have")


def joined(field: str, path: str) -> str:
    """Return the path of a value inside a field, from the field's own."""
    return f"{field}.{path}" if field and path and not path.startswith("[") else f"{field}{path}"


Name: TypeAlias = Annotated[str, Field(pattern=_NAME_PATTERN)]
"""A name or an id: a line of text without control characters."""

Text: TypeAlias = Annotated[str, Field(pattern=_TEXT_PATTERN)]
"""Text that every database can store; it may have several lines."""

Instant: TypeAlias = Annotated[AwareDatetime, AfterValidator(in_utc)]
"""A point in time, in UTC."""

Count: TypeAlias = Annotated[int, Field(ge=0, lt=2**63)]
"""A number of things, or a number in a sequence."""

Whole: TypeAlias = Annotated[int, BeforeValidator(_whole)]
"""An integer that somebody chooses. A truth value or a text is none: ``true`` would be 1."""

Real: TypeAlias = Annotated[float, BeforeValidator(_real)]
"""A number that somebody chooses, of which the same holds."""

Whole64: TypeAlias = Annotated[int, Field(ge=-(2**63), lt=2**63), BeforeValidator(_whole)]
"""The same, if no narrower bounds are known."""

Int64: TypeAlias = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""An integer that JSON readers, databases and services can hold."""

Message: TypeAlias = Annotated[str, BeforeValidator(to_json)]
"""Text from outside that is recorded whatever it contains: lone surrogates become ``?``."""
