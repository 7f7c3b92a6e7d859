"""Retry policy of HTTP requests."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from crucible.values.durations import equal_jitter, exponential_backoff

_RETRYABLE: Final = frozenset({408, 425, 429})
_NEVER: Final = frozenset({501, 505})


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """Exponential backoff with equal jitter. A retry sends the same bytes under the same idempotency key.

    ``give_up_after_s`` bounds the time since the first attempt; then the error of the last attempt is raised.
    ``attempts_at_500`` bounds attempts that end in a plain 500, which is usually a persistent bug.
    ``jitter`` returns a number in [0, 1).
    """

    initial_delay_s: float = 0.5
    max_delay_s: float = 30.0
    give_up_after_s: float = 300.0
    attempts_at_500: int = 5
    jitter: Callable[[], float] = field(default=random.SystemRandom().random, repr=False, compare=False)

    def delay_s(self, attempt: int, requested_ms: int | None) -> float:
        """Return the seconds to wait after attempt ``attempt``, from 0.

        A delay requested by the server replaces the backoff and is extended by up to 10 %.
        """
        if requested_ms is not None:
            return requested_ms / 1000 * (1 + 0.1 * self.jitter())
        return equal_jitter(exponential_backoff(self.initial_delay_s, self.max_delay_s, attempt), self.jitter)


def is_retryable(status: int) -> bool:
    """Return whether sending the same request again may change a response of this status."""
    return status in _RETRYABLE or (status >= 500 and status not in _NEVER)
