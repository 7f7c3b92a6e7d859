"""The ``Retry-After`` headers."""

import pytest

from crucible.http.retry_after import retry_after_ms


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "2"}, 2000),
        ({"retry-after": "0.5"}, 500),
        ({"retry-after-ms": "70", "retry-after": "9"}, 70),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:05 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 5000),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT", "date": "Wed, 21 Oct 2026 07:28:05 GMT"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1e12"}, None),
        ({}, None),
    ],
)
def test_the_requested_delay(headers: dict[str, str], expected: int | None) -> None:
    """Seconds, milliseconds, or a date by the server's own clock; an unusable value counts as absent."""
    assert retry_after_ms(headers) == expected
