"""Monotonic time that stays real while a test has frozen the wall clock, and event loops that run on it.

freezegun also replaces ``time.monotonic``. On an event loop that read it no timer would ever end, and leases, which
count monotonic time, would never expire.
"""

import asyncio
import contextlib
import time
from typing import Final

# the clock behind time.monotonic: freezegun replaces functions of modules, but not this one
_CLOCK_ID: Final[int | None] = getattr(time, "CLOCK_UPTIME_RAW", getattr(time, "CLOCK_MONOTONIC", None))


def monotonic() -> float:
    """Return seconds that never decrease, in any test; only differences are meaningful."""
    return time.monotonic() if _CLOCK_ID is None else time.clock_gettime(_CLOCK_ID)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop whose timers count ``monotonic``."""
    loop = asyncio.new_event_loop()
    with contextlib.suppress(AttributeError):  # a loop with a clock of its own, in C
        loop.time = monotonic  # type: ignore[method-assign]
    return loop
