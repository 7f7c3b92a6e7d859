"""JSON Schema validation without dependencies.

Covers the keywords of draft 2020-12 that are used with models. Unknown keywords are ignored, as the standard
requires; a known keyword with a value that the standard forbids is refused with its path.
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


def check_json_schema(schema: object, path: str = "json_schema") -> None:
    """Check that ``schema`` is a JSON Schema.

    Raises:
        ValueError: it is not; the message has the path inside the schema, its value, and what is allowed.
    """
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise _invalid(path, schema, "a schema is an object or a boolean")
    for keyword, value in schema.items():
        check = _CHECKS.get(keyword)
        if check is not None:
            check(value, f"{path}.{keyword}")


def _invalid(path: str, value: object, allowed: str) -> ValueError:
    shown = repr(value)
    return ValueError(f"{path}: {shown if len(shown) <= 80 else shown[:77] + '...'} is not allowed; {allowed}")


def _type(value: JsonValue, path: str) -> None:
    names = value if isinstance(value, list) else [value]
    known = [name for name in names if isinstance(name, str) and name in _TYPES]
    if not names or len(known) != len(names) or len(set(known)) != len(known):
        raise _invalid(path, value, f"one of {', '.join(sorted(_TYPES))}, or a list of distinct ones")


def _schema_map(value: JsonValue, path: str) -> None:
    if not isinstance(value, Mapping):
        raise _invalid(path, value, "an object whose values are schemas")
    for name, schema in value.items():
        check_json_schema(schema, f"{path}.{name}")


def _schema_list(value: JsonValue, path: str) -> None:
    if not isinstance(value, list) or not value:
        raise _invalid(path, value, "a list of at least one schema")
    for index, schema in enumerate(value):
        check_json_schema(schema, f"{path}[{index}]")


def _items(value: JsonValue, path: str) -> None:
    if isinstance(value, list):  # prefixItems in older drafts
        _schema_list(value, path)
    else:
        check_json_schema(value, path)


def _count(value: JsonValue, path: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value != int(value):
        raise _invalid(path, value, "a whole number of at least 0")


def _number(value: JsonValue, path: str) -> None:
    # draft 4, still common, has a boolean exclusiveMinimum
    if isinstance(value, bool) and "exclusive" in path:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _invalid(path, value, "a number")


def _multiple(value: JsonValue, path: str) -> None:
    _number(value, path)
    if isinstance(value, int | float) and value <= 0:
        raise _invalid(path, value, "a number above 0")


def _names(value: JsonValue, path: str) -> None:
    if isinstance(value, bool):  # draft 3
        return
    texts = [name for name in value if isinstance(name, str)] if isinstance(value, list) else None
    if not isinstance(value, list) or texts is None or len(set(texts)) != len(value):
        raise _invalid(path, value, "a list of distinct property names")


def _enum(value: JsonValue, path: str) -> None:
    if not isinstance(value, list) or not value:
        raise _invalid(path, value, "a list of at least one value")


def _text(value: JsonValue, path: str) -> None:
    if not isinstance(value, str):
        raise _invalid(path, value, "a string")


def _pattern(value: JsonValue, path: str) -> None:
    _text(value, path)
    try:
        re.compile(str(value))
    except re.error as exc:
        # the standard's dialect is ECMA 262, with constructs that Python lacks (\p{...})
        if r"\p" not in str(value) and r"\u" not in str(value):
            raise _invalid(path, value, f"a regular expression ({exc})") from None


def _flag(value: JsonValue, path: str) -> None:
    if not isinstance(value, bool):
        raise _invalid(path, value, "true or false")


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
