"""A virtual clock, by which delays, start times and deadlines pass without waiting. Needs freezegun."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from freezegun.api import FrozenDateTimeFactory, StepTickTimeFactory, TickingDateTimeFactory


class VirtualClock:
    """The wall clock of the process while ``virtual_clock`` is active. It moves only when it is told to."""

    def __init__(self, frozen: "FrozenDateTimeFactory | StepTickTimeFactory | TickingDateTimeFactory") -> None:
        self._frozen = frozen

    def now(self) -> datetime:
        """Return the time, in UTC."""
        return datetime.now(UTC)

    def advance(self, seconds: float | timedelta) -> datetime:
        """Move the clock by a number of seconds or a timedelta, and return the new time."""
        delta = seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds)
        return self.move_to(self.now() + delta)

    def move_to(self, time: datetime) -> datetime:
        """Set the clock to a time with a time zone, and return the new time. It may go back, as real ones do.

        Raises:
            ValueError: the time has no time zone.
        """
        if time.tzinfo is None:
            raise ValueError("the time has no time zone; use datetime(..., tzinfo=UTC)")
        self._frozen.move_to(time.astimezone(UTC).replace(tzinfo=None))
        return self.now()


@contextmanager
def virtual_clock(start: datetime | None = None) -> Iterator[VirtualClock]:
    """Freeze the wall clock of the process at ``start`` (by default now) until the end of the context.

    It is freezegun's ``freeze_time(..., real_asyncio=True)``. Leases, time limits of attempts and time-outs count
    monotonic time, which stays real, here as under ``freeze_time`` itself.

    Raises:
        ModuleNotFoundError: freezegun is not installed.
        ValueError: ``start`` has no time zone.
    """
    try:
        from freezegun import freeze_time
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("virtual_clock needs freezegun: pip install freezegun", name=error.name) from None
    if start is not None and start.tzinfo is None:
        raise ValueError("start has no time zone; use datetime(..., tzinfo=UTC)")
    moment = start or datetime.now(UTC)
    naive = moment.astimezone(UTC).replace(tzinfo=None)
    # without the module that is ignored, pytest reports durations by this clock
    with freeze_time(naive, real_asyncio=True, ignore=["_pytest.timing"]) as frozen:
        yield VirtualClock(frozen)
