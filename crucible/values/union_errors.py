"""Complaints of pydantic about values that may have several forms: one for each field, in its words.

For a union pydantic complains once for each of its types, with a name of the type in the place: ``checkpoint`` may
have errors at ``checkpoint.literal['best']`` and ``checkpoint.constrained-int``.
"""

import re
from collections.abc import Sequence
from typing import Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_TYPE: Final = re.compile(
    r"[A-Z]\w*|str|int|float|bool|(literal|tuple|list|dict|set|tagged-union)\[.*|[a-z]+-[a-z-]+.*"
)
"""Names of types in places: those of classes, and of pydantic's schemas."""
_INPUT: Final = "Input should be "


def plain_errors(error: ValidationError) -> list[ErrorDetails]:
    """Return the complaints of an error without the names of types: of a union, those about the type that the value
    has come furthest with; or one that names all types, if it is of none."""
    return _plain(error.errors(include_url=False))


def _plain(errors: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    place = _union(errors)
    if place is None:
        return [*errors]
    start = len(place)
    inside = [item for item in errors if _is_of(item, place)]
    first = next(index for index, item in enumerate(errors) if item is inside[0])
    deeper = [item for item in inside if len(item["loc"]) > start + 1]
    joined = [_without_type(item, start) for item in deeper] or [_joined(inside, place)]
    rest = [item for item in errors if item not in inside]
    return _plain([*rest[:first], *joined, *rest[first:]])


def _union(errors: Sequence[ErrorDetails]) -> tuple[int | str, ...] | None:
    """The first place with complaints about several types."""
    types: dict[tuple[int | str, ...], set[object]] = {}
    for item in errors:
        for index, step in enumerate(item["loc"]):
            if index and isinstance(step, str) and _TYPE.fullmatch(step):
                types.setdefault(item["loc"][:index], set()).add(step)
                break
    return next((place for place, names in types.items() if len(names) > 1), None)


def _is_of(item: ErrorDetails, place: tuple[int | str, ...]) -> bool:
    rest = item["loc"][len(place) :]
    return item["loc"][: len(place)] == place and bool(rest) and bool(_TYPE.fullmatch(str(rest[0])))


def _without_type(item: ErrorDetails, place: int) -> ErrorDetails:
    moved = item.copy()
    moved["loc"] = item["loc"][:place] + item["loc"][place + 1 :]
    return moved


def _joined(items: Sequence[ErrorDetails], place: tuple[int | str, ...]) -> ErrorDetails:
    joined = items[0].copy()
    texts = ["a mapping" if item["type"] == "model_type" else item["msg"].removeprefix(_INPUT) for item in items]
    joined["loc"], joined["type"], joined["msg"] = place, "union", _INPUT + ", or ".join(dict.fromkeys(texts))
    return joined
