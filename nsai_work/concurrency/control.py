"""Stop requests to a running job, and the job's statement that its work can be repeated.

The worker sets the reason; the job checks it between steps, or awaits it beside its other work. So a lost lease, a
cancellation and a time limit take effect within one step, and never in the middle of a write.
"""

import asyncio
from collections.abc import Callable
from enum import StrEnum

from crucible.errors import Canceled, CrucibleError
from nsai_work.errors import HandOver, JobTimeout, LeaseLost


class StopReason(StrEnum):
    """The reason of a stop request."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    LEASE_LOST = "lease_lost"


class Control:
    """The stop request of a running job. Not thread-safe: used on the worker's event loop.

    ``on_repeatable`` is called when the job has changed its word.
    """

    def __init__(self) -> None:
        self._reason: StopReason | None = None
        self._event = asyncio.Event()
        self._repeatable = False
        self.on_repeatable: Callable[[], None] = lambda: None

    @property
    def repeatable(self) -> bool:
        """All that the job still does may be done by another worker too: its service answers a repeated request
        from its record."""
        return self._repeatable

    def set_repeatable(self, value: bool) -> None:
        """State whether the work can be repeated from now on; initially it cannot."""
        if value is not self._repeatable:
            self._repeatable = value
            self.on_repeatable()

    @property
    def reason(self) -> StopReason | None:
        """The reason of the stop request; None if there is none."""
        return self._reason

    def stop(self, reason: StopReason) -> None:
        """Request a stop. A lost lease overrides any earlier reason; otherwise the first reason remains."""
        if self._reason is None or reason is StopReason.LEASE_LOST:
            self._reason = reason
        self._event.set()

    async def wait(self) -> StopReason:
        """Wait for a stop request and return its reason."""
        await self._event.wait()
        assert self._reason is not None
        return self._reason

    def check(self) -> None:
        """Raise the error of the stop request, if there is one.

        Raises:
            Canceled, JobTimeout, HandOver, LeaseLost: a stop was requested.
        """
        if self._reason is not None:
            raise stop_error(self._reason)


def stop_error(reason: StopReason) -> CrucibleError:
    """Return the error that ends a job for this reason."""
    match reason:
        case StopReason.CANCEL:
            return Canceled("canceled by request")
        case StopReason.TIMEOUT:
            return JobTimeout("the time limit of this attempt, or the job's deadline, has passed")
        case StopReason.SHUTDOWN:
            return HandOver("the worker is shutting down")
        case StopReason.LEASE_LOST:
            return LeaseLost("another worker has taken the job over")
