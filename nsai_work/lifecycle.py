"""The life of a job. Everything about transitions lives in this file.

``pending`` waits for something that is named (a dependency, a time); ``queued`` may be claimed as soon as it is
due; ``running`` has one owner with a lease. The other four are ends. The picture in docs/architecture.md is
tested against ``TRANSITIONS``.
"""

from enum import StrEnum
from typing import Final

from nsai_work.errors import IllegalTransition


class JobStatus(StrEnum):
    """Where a job is in its life."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    TIMEOUT = "timeout"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to the job unless someone retries it."""
        return self in ENDED


ENDED: Final = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED, JobStatus.TIMEOUT})

TRANSITIONS: Final[dict[JobStatus, frozenset[JobStatus]]] = {
    # a dependency may fail, a deadline may pass or a user may cancel before the job was ever queued
    JobStatus.PENDING: frozenset({JobStatus.QUEUED, JobStatus.FAILED, JobStatus.CANCELED, JobStatus.TIMEOUT}),
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.FAILED, JobStatus.CANCELED, JobStatus.TIMEOUT}),
    # back to queued: a retry, a pause, a hand-over, or a lease that ran out
    JobStatus.RUNNING: frozenset({JobStatus.QUEUED, *ENDED}),
    JobStatus.SUCCEEDED: frozenset(),
    # an end that a person may reopen (nsai-work retry)
    JobStatus.FAILED: frozenset({JobStatus.QUEUED}),
    JobStatus.CANCELED: frozenset({JobStatus.QUEUED}),
    JobStatus.TIMEOUT: frozenset({JobStatus.QUEUED}),
}


def check_transition(old: JobStatus, new: JobStatus) -> None:
    """Raise IllegalTransition unless the table has this move."""
    if new not in TRANSITIONS[old]:
        allowed = ", ".join(sorted(TRANSITIONS[old])) or "nothing"
        raise IllegalTransition(
            f"a job cannot go from {old} to {new}; from {old} it can go to: {allowed}",
            details={"from": str(old), "to": str(new)},
        )
