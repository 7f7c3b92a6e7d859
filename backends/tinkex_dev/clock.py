"""The server's only source of time; tests pass their own."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(slots=True)
class ServerClock:
    """Wall clock with an offset that tests advance, so that expiry after minutes is tested at once."""

    ahead_s: float = 0.0

    def now(self) -> datetime:
        """The current time, in UTC."""
        return datetime.fromtimestamp(self.seconds(), UTC)

    def seconds(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        return time.time() + self.ahead_s


def iso(moment: datetime) -> str:
    """An ISO 8601 timestamp in UTC, with ``Z``."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
