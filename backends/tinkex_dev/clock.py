"""The server's only source of time; tests bring their own."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(slots=True)
class Clock:
    """Wall time that can be pushed forward, so that what takes minutes to expire can be tested at once."""

    ahead_s: float = 0.0

    def now(self) -> datetime:
        """The time of day, in UTC."""
        return datetime.fromtimestamp(self.seconds(), UTC)

    def seconds(self) -> float:
        """Seconds since the epoch."""
        return time.time() + self.ahead_s


def iso(moment: datetime) -> str:
    """A time as the wire has it."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
