"""Parsing of the ``Retry-After`` family of response headers."""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

_MAX_WAIT_MS: Final = 86_400_000
_HEADERS: Final = (("retry-after-ms", 1.0), ("retry-after", 1000.0))


def retry_after_ms(headers: Mapping[str, str]) -> int | None:
    """Return the delay that a server requests, in milliseconds, or None when it requests no usable delay.

    Reads ``retry-after-ms``, then ``Retry-After`` in seconds or as an HTTP date. A date is compared with the
    response's own ``Date`` header, so that clock skew between client and server does not matter. Negative values,
    NaN and delays over a day are ignored. ``headers`` must be case-insensitive or lower case.
    """
    for name, scale in _HEADERS:
        value = headers.get(name, "")
        try:
            wait_ms = float(value) * scale
        except ValueError:
            wait_ms = _ms_between(headers.get("date", ""), value)
        if 0 <= wait_ms <= _MAX_WAIT_MS:
            return int(wait_ms)
    return None


def _ms_between(start: str, end: str) -> float:
    """Milliseconds from one HTTP date to another; -1 when either cannot be parsed."""
    try:
        return (parsedate_to_datetime(end) - parsedate_to_datetime(start)).total_seconds() * 1000
    except (TypeError, ValueError, OverflowError):
        return -1.0
