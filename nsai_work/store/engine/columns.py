"""Column types that mean the same on every database."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import BigInteger, Dialect, Integer, Text
from sqlalchemy.types import TypeDecorator

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

BigKey: Final = BigInteger().with_variant(Integer(), "sqlite")
"""A 64-bit key. SQLite counts up by itself only for a column declared INTEGER."""


class UtcTime(TypeDecorator[datetime]):
    """A moment, kept as microseconds since 1970 UTC: sorts, compares and rounds alike everywhere."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(microseconds=value)


class Json(TypeDecorator[Any]):
    """JSON as text. NUL and lone surrogates are escaped, and NaN comes back, which native JSON types refuse."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


class LossyText(TypeDecorator[str]):
    """Words that somebody else chose, such as a service's reason: what no database can keep is replaced."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")
