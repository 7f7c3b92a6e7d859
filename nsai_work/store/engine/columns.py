"""Column types with equal semantics on SQLite and PostgreSQL."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import BigInteger, Dialect, Integer, Text
from sqlalchemy.types import TypeDecorator

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

BigKey: Final = BigInteger().with_variant(Integer(), "sqlite")
"""A 64-bit key. SQLite assigns keys only to a column declared INTEGER."""


class UtcTime(TypeDecorator[datetime]):
    """A point in time as microseconds since 1970 UTC, so that both databases sort, compare and round it alike."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(microseconds=value)


class Json(TypeDecorator[Any]):
    """JSON as text, with NUL and lone surrogates escaped, and with NaN. Native JSON types refuse all three."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


class LossyText(TypeDecorator[str]):
    """Text from outside, such as a service's error message. Lone surrogates become ``?`` and NUL becomes U+FFFD,
    because PostgreSQL stores neither."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")
