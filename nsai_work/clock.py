"""The clock: the only source of time.

``now`` is the wall clock (UTC), for display and schedules; freezegun's ``freeze_time`` moves it. ``monotonic``
measures durations and leases; it stays real unless a test passes another ``Clock`` on purpose.
"""

from datetime import UTC, datetime
from typing import Protocol

from crucible.runtime.monotonic import monotonic


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
        return monotonic()
