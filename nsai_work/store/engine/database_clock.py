"""The wall clock of a database server, by which a store judges start times and deadlines.

Processes with wrong wall clocks then agree on when a job is due. A reading of the server's clock is continued by
the process's monotonic clock and repeated after REFRESH_S, so that hardly any transaction costs a round trip
more. Where the monotonic clock stops, as on a suspended machine, the time is late until the next reading, so that
nothing starts or ends early.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from nsai_work.clock import Clock

REFRESH_S: Final = 10.0
MAX_ERROR_S: Final = 0.5
"""The error of a reading above which it is repeated: the process was frozen, or had no CPU, as it waited."""
MAX_READINGS: Final = 3
DRIFT: Final = 1e-4
"""The largest relative difference in speed between two clocks, with a margin."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """The server's time at a monotonic time, to within ``error_s``; ``read_at`` is when that was last confirmed."""

    server: datetime
    monotonic: float
    error_s: float
    read_at: float

    def at(self, monotonic: float) -> datetime:
        return self.server + timedelta(seconds=monotonic - self.monotonic)


class DatabaseClock:
    """The server's clock. Thread-safe: concurrent readings are equally good."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._reading: _Reading | None = None

    def now(self, connection: Connection) -> datetime:
        """The server's time, read on this connection if no recent reading is known. Raises driver errors
        unchanged."""
        reading = self._reading
        if reading is None or self._clock.monotonic() - reading.read_at > REFRESH_S:
            reading = self._reading = _better(reading, self._read(connection))
        return reading.at(self._clock.monotonic())

    def _read(self, connection: Connection) -> _Reading:
        readings: list[_Reading] = []
        while len(readings) < MAX_READINGS and all(reading.error_s > MAX_ERROR_S for reading in readings):
            readings.append(self._read_once(connection))
        return min(readings, key=lambda reading: reading.error_s)

    def _read_once(self, connection: Connection) -> _Reading:
        sent = self._clock.monotonic()
        server: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
        received = self._clock.monotonic()
        return _Reading(server.astimezone(UTC), (sent + received) / 2, (received - sent) / 2, received)


def _better(old: _Reading | None, new: _Reading) -> _Reading:
    """The more precise of two readings if they agree, so that time does not jump by the latency of a reading."""
    if old is None:
        return new
    error_s = old.error_s + DRIFT * (new.read_at - old.read_at)
    difference_s = abs((new.server - old.at(new.monotonic)).total_seconds())
    if difference_s > error_s + new.error_s or new.error_s <= error_s:
        return new
    return replace(old, error_s=error_s, read_at=new.read_at)
