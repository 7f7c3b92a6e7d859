"""One claimed job while this worker runs it."""

import asyncio
from dataclasses import dataclass, field

from nsai_work.control import Control
from nsai_work.store.records import Claim


@dataclass(slots=True, eq=False)
class Attempt:
    """``renewed_at`` is this process's monotonic clock just before the last heartbeat that succeeded was sent.
    ``recording``: its end is on its way to the store, so a lease that is gone may have been given up here."""

    claim: Claim
    renewed_at: float
    control: Control = field(default_factory=Control)
    recording: bool = False
    task: "asyncio.Task[None] | None" = None

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.claim.job_id
