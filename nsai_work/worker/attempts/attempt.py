"""A claimed job while this worker runs it."""

import asyncio
from dataclasses import dataclass, field

from nsai_work.concurrency.control import Control
from nsai_work.store.records import Claim


@dataclass(slots=True, eq=False)
class Attempt:
    """A claim with its control and its task.

    ``renewed_at`` is the monotonic time just before the last successful heartbeat was sent, and ``present_at`` one
    at which the worker's session certainly existed, and was known to observers. Nobody else can own the job before
    ``owned_until``, a monotonic time that the lease keeper moves on. While ``recording``, the outcome is being
    written to the store: a lease that is gone may then have been released by this worker itself.
    """

    claim: Claim
    renewed_at: float
    control: Control = field(default_factory=Control)
    recording: bool = False
    present_at: float = field(init=False)
    owned_until: float = field(init=False)
    task: "asyncio.Task[None] | None" = None

    def __post_init__(self) -> None:
        self.present_at = self.owned_until = self.renewed_at

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.claim.job_id
