"""Event loop lag: measures how late the loop runs its timers, which shows whether a worker is overloaded.

All of a worker runs on one loop, the heartbeats included. A worker whose loop lags by a large part of the lease
duration would lose its jobs to others while it still runs them.
"""

import asyncio
from collections import deque

from nsai_work.clock import Clock
from nsai_work.telemetry.logs import get_logger

log = get_logger(__name__)

INTERVAL_S = 0.25
MAX_MEASUREMENTS = 10_000


class LoopLagMonitor:
    """Measures the lag and warns. ``newest_s`` is the newest measurement, in seconds; ``late`` whether it
    exceeds a fifth of the lease."""

    def __init__(self, clock: Clock, *, lease_ttl_s: float) -> None:
        self._clock = clock
        self._max_lag_s = lease_ttl_s / 5
        self._lags: deque[float] = deque(maxlen=MAX_MEASUREMENTS)
        self.late = False
        self.newest_s = 0.0

    async def run(self) -> None:
        """Measure forever."""
        while True:
            before = self._clock.monotonic()
            await asyncio.sleep(INTERVAL_S)
            lag_s = max(self._clock.monotonic() - before - INTERVAL_S, 0.0)
            self._lags.append(lag_s)
            self.newest_s = lag_s
            self.late = lag_s > self._max_lag_s
            if self.late:
                log.warning("worker.loop_lag", lag_s=round(lag_s, 3))

    def quantile_ms(self, share: float) -> float:
        """Return the lag that this share of the measurements does not exceed; 0 before the first."""
        ordered = sorted(self._lags)
        return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000, 1) if ordered else 0.0
