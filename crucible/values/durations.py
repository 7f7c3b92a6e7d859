"""Arithmetic of durations: elapsed time, exponential backoff, jitter."""

import time
from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)

_MAX_DOUBLINGS = 62
"""Past any maximum delay; a larger exponent would only make a larger integer."""


def elapsed_ms(since: float) -> float:
    """Return the milliseconds since ``since``, a value of ``time.monotonic``."""
    return (time.monotonic() - since) * 1000


def exponential_backoff(initial: Number, maximum: Number, doublings: int) -> Number:
    """Return ``initial``, doubled ``doublings`` times, but at most ``maximum``."""
    factor = 1 << min(doublings, _MAX_DOUBLINGS)
    return min(initial * factor, maximum)


def equal_jitter(delay: float, jitter: Callable[[], float]) -> float:
    """Return a random delay between half of ``delay`` and all of it, so that failures are not retried all at once.

    ``jitter`` returns a number in [0, 1).
    """
    return delay * (0.5 + jitter() / 2)
