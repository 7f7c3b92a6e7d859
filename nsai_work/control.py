"""How the outside tells a running job to stop.

The worker sets the reason; the job looks at each step border, or waits for it beside its other work. A lease
that is lost, a cancellation and a time limit all take effect within one step that way, and never in the middle
of a write.
"""

import asyncio
from enum import StrEnum

from crucible.errors import Canceled, CrucibleError
from nsai_work.errors import HandOver, JobTimeout, LeaseLost


class StopReason(StrEnum):
    """Why a running job is to stop."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    LEASE_LOST = "lease_lost"


class Control:
    """One per running job, on the worker's event loop."""

    def __init__(self) -> None:
        self._reason: StopReason | None = None
        self._event = asyncio.Event()

    @property
    def reason(self) -> StopReason | None:
        """Why the job is to stop, or None."""
        return self._reason

    def stop(self, reason: StopReason) -> None:
        """Ask the job to stop. A lost lease overrides every other reason; else the first one stays."""
        if self._reason is None or reason is StopReason.LEASE_LOST:
            self._reason = reason
        self._event.set()

    async def wait(self) -> StopReason:
        """Wait until the job is to stop."""
        await self._event.wait()
        assert self._reason is not None
        return self._reason

    def check(self) -> None:
        """Raise the error that belongs to the reason: Canceled, JobTimeout, HandOver or LeaseLost."""
        if self._reason is not None:
            raise stop_error(self._reason)


def stop_error(reason: StopReason) -> CrucibleError:
    """The error that ends a job which was told to stop."""
    match reason:
        case StopReason.CANCEL:
            return Canceled("canceled by request")
        case StopReason.TIMEOUT:
            return JobTimeout("the time limit of this attempt, or the job's deadline, has passed")
        case StopReason.SHUTDOWN:
            return HandOver("the worker is shutting down")
        case StopReason.LEASE_LOST:
            return LeaseLost("another worker has taken the job over")
