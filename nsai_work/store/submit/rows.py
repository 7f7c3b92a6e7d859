"""New jobs: their validation, lane, initial status and rows."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from nsai_work.errors import InvalidJob
from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.database import Tx
from nsai_work.store.lifecycle.wait_events import BEHIND, depends_on, not_before
from nsai_work.store.rows import new_row
from nsai_work.store.submit.lanes import LaneKey, lane_key

SUBMITTED: Final = "job.submitted"
"""The name of the first event of every job."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """A submitted job with its lane and initial status. ``run_at`` is None unless it lies in the future."""

    job: Job
    lane: LaneKey
    status: JobStatus
    run_at: datetime | None

    def wait_reason(self, *, behind: bool) -> str | None:
        """The reason why the job is pending; of a queued one, that it is ``behind`` others of its lane, which is
        recorded with the job itself, since a backlog is too long to be recorded again later. None for the first."""
        if self.run_at is not None:
            return not_before(self.run_at)
        names = self.job.constraints.depends_on
        return depends_on(names) if names else BEHIND if behind else None


def new_job(tx: Tx, job: Job) -> NewJob:
    """Check a submitted job.

    Raises:
        InvalidJob: it cannot be stored.
    """
    _check(tx, job)
    not_before = job.constraints.not_before
    later = not_before is not None and not_before > tx.now
    status = JobStatus.PENDING if job.constraints.depends_on or later else JobStatus.QUEUED
    return NewJob(job, lane_key(job), status, not_before if later else None)


def job_row(tx: Tx, new: NewJob) -> dict[str, Any]:
    """The row of a new job. The caller adds seq and lane_id."""
    return {
        **new_row(new.job, now=tx.now),
        "model": new.lane.model,
        "group_key": new.lane.group_key,
        "status": new.status,
        "queued_at": tx.now if new.status is JobStatus.QUEUED else None,
        "run_at": new.run_at,
    }


def submitted_data(new: NewJob, wait_reason: str | None) -> dict[str, Any]:
    """The data of the first event."""
    data = {"to": str(new.status), "kind": str(new.job.kind), "backend": new.job.backend}
    return data if wait_reason is None else {**data, "reason": wait_reason}


def invalid(field: str, message: str) -> InvalidJob:
    """The error for a job that cannot be stored."""
    return InvalidJob(f"{field}: {message}", details={"fields": [field]})


def _check(tx: Tx, job: Job) -> None:
    deadline = job.constraints.deadline
    if deadline is not None and deadline <= tx.now:
        raise invalid(
            "constraints.deadline", f"{deadline.isoformat()} has passed already; give a later one or none"
        )
    if job.id in job.constraints.depends_on:
        raise invalid("constraints.depends_on", "a job cannot depend on itself")
