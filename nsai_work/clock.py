"""The clock: the only source of time.

``now`` is the wall clock (UTC), for display and schedules; ``monotonic`` measures durations and leases. Both are
resolved at each call, so freezegun and fakes can replace them.
"""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A source of time, passed as an argument to all code that needs the time."""

    def now(self) -> datetime:
        """Return the wall-clock time, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never decrease; only differences are meaningful."""
        ...


class SystemClock:
    """The system's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()
