"""The one source of time.

``now`` is the wall clock (UTC), for what people read and for schedules; ``monotonic`` measures durations and
leases. Both are looked up when called, so freezegun and fakes reach them.
"""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What everything that needs the time takes as an argument."""

    def now(self) -> datetime:
        """The wall clock, with the UTC zone."""
        ...

    def monotonic(self) -> float:
        """Seconds that never step back; only differences mean something."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()
