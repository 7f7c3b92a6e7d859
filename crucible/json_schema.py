"""Is this a JSON Schema? Checked by the rules of the keywords themselves, without any library.

The check knows the keywords of draft 2020-12 that models are given. A keyword it does not know is left alone, as
the standard asks; a keyword with a value that the standard forbids is refused with its place.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Final

from pydantic import JsonValue

_TYPES: Final = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_SCHEMA: Final = ("not", "items", "contains", "additionalProperties", "propertyNames", "if", "then", "else")
_SCHEMA_MAPS: Final = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SCHEMA_LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_COUNTS: Final = (
    "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains"
)  # fmt: skip
_NUMBERS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_TEXTS: Final = ("$schema", "$id", "$ref", "$anchor", "title", "description", "format")


def check_json_schema(schema: object, place: str = "json_schema") -> None:
    """Do nothing if ``schema`` is a JSON Schema.

    Raises:
        ValueError: naming the place inside the schema, its value, and what is allowed there.
    """
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise _wrong(place, schema, "a schema is an object or a boolean")
    for keyword, value in schema.items():
        check = _CHECKS.get(keyword)
        if check is not None:
            check(value, f"{place}.{keyword}")


def _wrong(place: str, value: object, allowed: str) -> ValueError:
    shown = repr(value)
    return ValueError(f"{place}: {shown if len(shown) <= 80 else shown[:77] + '...'} is not allowed; {allowed}")


def _type(value: JsonValue, place: str) -> None:
    names = value if isinstance(value, list) else [value]
    known = [name for name in names if isinstance(name, str) and name in _TYPES]
    if not names or len(known) != len(names) or len(set(known)) != len(known):
        raise _wrong(place, value, f"one of {', '.join(sorted(_TYPES))}, or a list of different ones")


def _schema_map(value: JsonValue, place: str) -> None:
    if not isinstance(value, Mapping):
        raise _wrong(place, value, "an object whose values are schemas")
    for name, schema in value.items():
        check_json_schema(schema, f"{place}.{name}")


def _schema_list(value: JsonValue, place: str) -> None:
    if not isinstance(value, list) or not value:
        raise _wrong(place, value, "a list of at least one schema")
    for index, schema in enumerate(value):
        check_json_schema(schema, f"{place}[{index}]")


def _items(value: JsonValue, place: str) -> None:
    if isinstance(value, list):  # the older drafts' way to say prefixItems
        _schema_list(value, place)
    else:
        check_json_schema(value, place)


def _count(value: JsonValue, place: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value != int(value):
        raise _wrong(place, value, "a whole number of at least 0")


def _number(value: JsonValue, place: str) -> None:
    # Draft 4, still common, writes exclusiveMinimum as a boolean.
    if isinstance(value, bool) and "exclusive" in place:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(place, value, "a number")


def _multiple(value: JsonValue, place: str) -> None:
    _number(value, place)
    if isinstance(value, int | float) and value <= 0:
        raise _wrong(place, value, "a number above 0")


def _names(value: JsonValue, place: str) -> None:
    if isinstance(value, bool):  # draft 3
        return
    texts = [name for name in value if isinstance(name, str)] if isinstance(value, list) else None
    if not isinstance(value, list) or texts is None or len(set(texts)) != len(value):
        raise _wrong(place, value, "a list of different property names")


def _enum(value: JsonValue, place: str) -> None:
    if not isinstance(value, list) or not value:
        raise _wrong(place, value, "a list of at least one value")


def _text(value: JsonValue, place: str) -> None:
    if not isinstance(value, str):
        raise _wrong(place, value, "a string")


def _pattern(value: JsonValue, place: str) -> None:
    _text(value, place)
    try:
        re.compile(str(value))
    except re.error as exc:
        # The standard's dialect is ECMA 262; what only Python cannot read (\p{...}) is let through.
        if r"\p" not in str(value) and r"\u" not in str(value):
            raise _wrong(place, value, f"a regular expression ({exc})") from None


def _flag(value: JsonValue, place: str) -> None:
    if not isinstance(value, bool):
        raise _wrong(place, value, "true or false")


_CHECKS: Final[Mapping[str, Callable[[JsonValue, str], None]]] = {
    "type": _type,
    "enum": _enum,
    "required": _names,
    "pattern": _pattern,
    "multipleOf": _multiple,
    "uniqueItems": _flag,
    **dict.fromkeys(_SCHEMA, check_json_schema),
    "items": _items,
    **dict.fromkeys(_SCHEMA_MAPS, _schema_map),
    **dict.fromkeys(_SCHEMA_LISTS, _schema_list),
    **dict.fromkeys(_COUNTS, _count),
    **dict.fromkeys(_NUMBERS, _number),
    **dict.fromkeys(_TEXTS, _text),
}
