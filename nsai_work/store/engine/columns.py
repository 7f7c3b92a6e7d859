"""Column types with equal semantics on SQLite and PostgreSQL."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import BigInteger, Dialect, Integer, Text
from sqlalchemy.types import TypeDecorator

from crucible.values.json_types import to_json

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

UNREADABLE: Final = "(not JSON)"
"""The value of a JSON column whose text is not JSON. No record accepts a text there."""

BigKey: Final = BigInteger().with_variant(Integer(), "sqlite")
"""A 64-bit key. SQLite assigns keys only to a column declared INTEGER."""


class UtcTime(TypeDecorator[datetime]):
    """A point in time as microseconds since 1970 UTC, so that both databases sort, compare and round it alike."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else _moment(value)


def _moment(microseconds: int) -> datetime | None:
    """The time of a column. One outside of the calendar is its end; None if it is no number, as SQLite allows."""
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC) if microseconds > 0 else datetime.min.replace(tzinfo=UTC)
    except TypeError:
        return None


class StoredLimit(TypeDecorator[int]):
    """A maximum; None if there is none. One that is no integer, as SQLite allows, is 0, so that only what is under
    it waits."""

    impl = Integer
    cache_ok = True

    def process_result_value(self, value: int | None, dialect: Dialect) -> int | None:
        return value if value is None or isinstance(value, int) else 0


class Json(TypeDecorator[Any]):
    """JSON as text, in which NUL and lone surrogates are escaped; native JSON types refuse both.

    What JSON cannot hold is written as text (``crucible.values.json_types.to_json``). Text that is not JSON is read
    as UNREADABLE, so that it does not hide the other rows of a query.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        if value is None:
            return None
        try:
            return json.dumps(value, separators=(",", ":"), allow_nan=False)
        except (ValueError, TypeError, RecursionError):
            return json.dumps(to_json(value), separators=(",", ":"), allow_nan=False)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        try:
            return json.loads(value, parse_constant=str)
        except (ValueError, TypeError, RecursionError):
            return UNREADABLE


class LossyText(TypeDecorator[str]):
    """Text from outside, such as a service's error message. Lone surrogates become ``?`` and NUL becomes U+FFFD,
    because PostgreSQL stores neither."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")
