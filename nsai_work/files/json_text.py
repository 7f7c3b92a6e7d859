"""JSON that users give as text. A field that is there twice is an error: one of its values would be dropped."""

import json
from collections.abc import Sequence
from typing import Any, Final


class RepeatedField(Exception):
    """An object has a field twice."""

    def __init__(self, name: str) -> None:
        super().__init__(f"has the field {ascii(name)[:60]} twice")


def unique_fields(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON, as a hook of ``json``. Raises RepeatedField."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise RepeatedField(next(name for name in names if names.count(name) > 1))
    return found


DECODER: Final = json.JSONDecoder(object_pairs_hook=unique_fields)
"""The decoder, for a value in the middle of a text."""


def decode_json(text: str) -> Any:
    """Decode a JSON text. Raises RepeatedField, ValueError, RecursionError."""
    return DECODER.decode(text)
