"""How late the event loop is: the one number that says whether a worker has taken on too much.

Everything of a worker runs on one loop, heartbeats too. A loop that is late for a good part of a lease's time
loses its jobs to others although it works, so it says so.
"""

import asyncio
from collections import deque

from nsai_work.clock import Clock
from nsai_work.logs import get_logger

log = get_logger(__name__)

INTERVAL_S = 0.25
KEPT = 10_000


class LoopLagMonitor:
    """Measures, remembers the newest measurements, and warns. ``late``: the newest was a good part of a lease."""

    def __init__(self, clock: Clock, *, lease_ttl_s: float) -> None:
        self._clock = clock
        self._warn_at_s = lease_ttl_s / 5
        self._seen: deque[float] = deque(maxlen=KEPT)
        self.late = False

    async def run(self) -> None:
        """Measure for ever."""
        while True:
            before = self._clock.monotonic()
            await asyncio.sleep(INTERVAL_S)
            late_s = max(self._clock.monotonic() - before - INTERVAL_S, 0.0)
            self._seen.append(late_s)
            self.late = late_s > self._warn_at_s
            if self.late:
                log.warning("worker.loop_late", late_s=round(late_s, 3))

    def quantile_ms(self, share: float) -> float:
        """The lag that this share of the measurements did not exceed; 0 before the first."""
        ordered = sorted(self._seen)
        return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000, 1) if ordered else 0.0
