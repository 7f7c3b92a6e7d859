"""How long to wait before the same request goes out again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.tinkex.wire.retry import RetryConfig, is_retryable


@given(st.integers(0, 10_000), st.floats(0, 0.999))
def test_delays_stay_within_bounds(attempt: int, drawn: float) -> None:
    """For any attempt and any draw."""
    config = RetryConfig(initial_delay_s=0.5, max_delay_s=30, jitter=lambda: drawn)

    assert 0.25 <= config.delay_s(attempt, None) <= 30


@given(st.integers(0, 100), st.integers(0, 100_000), st.floats(0, 0.999))
def test_what_the_server_asks_is_a_floor(attempt: int, asked_ms: int, drawn: float) -> None:
    """Spread by a tenth at most, so that not all clients come back at once."""
    delay = RetryConfig(jitter=lambda: drawn).delay_s(attempt, asked_ms)

    assert asked_ms / 1000 <= delay <= asked_ms / 1000 * 1.1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 529])
def test_passing_troubles_are_sent_again(status: int) -> None:
    """Time may heal them."""
    assert is_retryable(status)


@pytest.mark.parametrize("status", [200, 400, 401, 402, 403, 404, 409, 410, 413, 415, 422, 501])
def test_verdicts_are_not_sent_again(status: int) -> None:
    """The same request would get the same answer."""
    assert not is_retryable(status)
