"""Types for JSON values without NaN and infinity, which JSON cannot represent and pydantic would write as null."""

import math
from typing import Annotated

from pydantic import AfterValidator, JsonValue


def _refuse_non_finite(value: JsonValue) -> JsonValue:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not valid JSON; use null or a string")
    if isinstance(value, dict):
        for item in value.values():
            _refuse_non_finite(item)
    elif isinstance(value, list):
        for item in value:
            _refuse_non_finite(item)
    return value


def _refuse_in_object(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    for item in value.values():
        _refuse_non_finite(item)
    return value


FiniteJson = Annotated[JsonValue, AfterValidator(_refuse_non_finite)]
"""A JSON value."""

FiniteObject = Annotated[dict[str, JsonValue], AfterValidator(_refuse_in_object)]
"""A JSON object."""
