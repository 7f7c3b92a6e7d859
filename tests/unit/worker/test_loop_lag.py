"""Event loop lag is measured on the loop that runs the jobs."""

import asyncio
import time

from nsai_work.clock import SystemClock
from nsai_work.worker.probes.loop_lag import INTERVAL_S, LoopLagMonitor


def test_a_blocked_loop_is_detected() -> None:
    """If the loop was blocked for a large part of a lease, the worker is late."""

    async def scenario() -> None:
        monitor = LoopLagMonitor(SystemClock(), lease_ttl_s=1.0)
        task = asyncio.create_task(monitor.run())
        await asyncio.sleep(0)
        time.sleep(INTERVAL_S + 0.4)  # noqa: ASYNC251  # blocks the loop on purpose
        await asyncio.sleep(0.01)
        assert monitor.late
        assert monitor.quantile_ms(1.0) >= 300
        task.cancel()

    asyncio.run(scenario())
