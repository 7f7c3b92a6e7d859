"""When one HTTP request is sent again, and how long to wait before."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from crucible.durations import equal_jitter, exponential_backoff

_RETRYABLE: Final = frozenset({408, 425, 429})
_NEVER: Final = frozenset({501, 505})


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """Exponential backoff with full jitter. The same bytes go out again under the same idempotency key.

    ``give_up_after_s`` bounds the time from the first attempt; the error of the last attempt is then raised.
    ``attempts_at_500`` bounds attempts that end in a plain 500: most often that is one and the same bug again.
    ``jitter`` gives a number in [0, 1).
    """

    initial_delay_s: float = 0.5
    max_delay_s: float = 30.0
    give_up_after_s: float = 300.0
    attempts_at_500: int = 5
    jitter: Callable[[], float] = field(default=random.SystemRandom().random, repr=False, compare=False)

    def delay_s(self, attempt: int, asked_ms: int | None) -> float:
        """Seconds before attempt ``attempt`` + 1. What the server asked for is a floor, spread by up to 10 %."""
        drawn = equal_jitter(exponential_backoff(self.initial_delay_s, self.max_delay_s, attempt), self.jitter)
        if asked_ms is None:
            return drawn
        asked: float = asked_ms / 1000 * (1 + 0.1 * self.jitter())
        return asked


def is_retryable(status: int) -> bool:
    """Whether an answer of this status may turn out otherwise when the same request is sent again."""
    return status in _RETRYABLE or (status >= 500 and status not in _NEVER)
