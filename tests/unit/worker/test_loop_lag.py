"""The loop's lag: measured where the jobs run."""

import asyncio
import time

from nsai_work.clock import SystemClock
from nsai_work.worker.loop_lag import INTERVAL_S, LoopLagMonitor


def test_a_blocked_loop_is_noticed() -> None:
    """Something that blocks the loop for a good part of a lease makes the worker late, until it has caught up."""

    async def scenario() -> None:
        meter = LoopLagMonitor(SystemClock(), lease_ttl_s=1.0)
        task = asyncio.create_task(meter.run())
        await asyncio.sleep(0)
        time.sleep(INTERVAL_S + 0.4)  # noqa: ASYNC251  # what must not happen, on purpose
        await asyncio.sleep(0.01)
        assert meter.late
        assert meter.quantile_ms(1.0) >= 300
        task.cancel()

    asyncio.run(scenario())
