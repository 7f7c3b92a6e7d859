"""Durations: backoff doubles up to its maximum, and jitter keeps between half and all of a delay."""

import time

import pytest

from crucible.values.durations import elapsed_ms, equal_jitter, exponential_backoff


def test_the_backoff_doubles_up_to_its_maximum() -> None:
    """Also after more failures than any float has bits for."""
    assert [exponential_backoff(100, 1000, doublings) for doublings in range(6)] == [100, 200, 400, 800, 1000, 1000]
    assert exponential_backoff(0.5, 30.0, 10_000) == 30.0
    assert exponential_backoff(0, 1000, 5) == 0


@pytest.mark.parametrize(("drawn", "expected"), [(0.0, 500.0), (0.5, 750.0), (1.0, 1000.0)])
def test_jitter_takes_at_most_half_of_a_delay(drawn: float, expected: float) -> None:
    """The limits of ``jitter``, and the middle."""
    assert equal_jitter(1000, lambda: drawn) == expected


def test_elapsed_time_is_in_milliseconds() -> None:
    """Two seconds ago is 2,000 ms."""
    assert elapsed_ms(time.monotonic() - 2) == pytest.approx(2000, abs=500)
