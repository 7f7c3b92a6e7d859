"""Job statuses and the table of allowed transitions.

A ``pending`` job waits for a dependency or a time; a ``queued`` job may be claimed once it is due; a ``running``
job has one owner with a lease. The other four statuses are final. A test compares docs/architecture.md with
``TRANSITIONS``.
"""

from enum import StrEnum
from typing import Final

from nsai_work.errors import IllegalTransition


class JobStatus(StrEnum):
    """The status of a job."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    TIMEOUT = "timeout"

    @property
    def ended(self) -> bool:
        """The status is final: only a manual retry changes it."""
        return self in ENDED


ENDED: Final = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED, JobStatus.TIMEOUT})

TRANSITIONS: Final[dict[JobStatus, frozenset[JobStatus]]] = {
    # before the job is queued, a dependency may fail, its deadline may pass, or a user may cancel it
    JobStatus.PENDING: frozenset({JobStatus.QUEUED, JobStatus.FAILED, JobStatus.CANCELED, JobStatus.TIMEOUT}),
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.FAILED, JobStatus.CANCELED, JobStatus.TIMEOUT}),
    # back to queued: a retry, a pause, a hand-over, or an expired lease
    JobStatus.RUNNING: frozenset({JobStatus.QUEUED, *ENDED}),
    JobStatus.SUCCEEDED: frozenset(),
    # a manual retry (nsai-work retry); pending while a dependency is retried too
    JobStatus.FAILED: frozenset({JobStatus.PENDING, JobStatus.QUEUED}),
    JobStatus.CANCELED: frozenset({JobStatus.PENDING, JobStatus.QUEUED}),
    JobStatus.TIMEOUT: frozenset({JobStatus.PENDING, JobStatus.QUEUED}),
}


def check_transition(old: JobStatus, new: JobStatus) -> None:
    """Check a transition against the table.

    Raises:
        IllegalTransition: the table does not allow it.
    """
    if new not in TRANSITIONS[old]:
        allowed = ", ".join(sorted(TRANSITIONS[old])) or "nothing"
        raise IllegalTransition(
            f"a job cannot change from {old} to {new}; allowed from {old}: {allowed}",
            details={"from": str(old), "to": str(new)},
        )
