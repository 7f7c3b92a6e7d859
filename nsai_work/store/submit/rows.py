"""Jobs that come in: whether they can be stored, where they wait, and their rows."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from nsai_work.errors import InvalidJob
from nsai_work.job import Job, storable
from nsai_work.lifecycle import JobStatus
from nsai_work.placement import model_of
from nsai_work.store.engine.database import Tx
from nsai_work.store.lanes import LaneKey, lane_key
from nsai_work.store.rows import new_row

SUBMITTED: Final = "job.submitted"
"""The name of the first entry of every job's log."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job that comes in, where it will wait, and whether it has to wait for its time."""

    job: Job
    lane: LaneKey
    status: JobStatus
    run_at: datetime | None


def arrival(tx: Tx, job: Job) -> NewJob:
    """How a job comes in.

    Raises:
        InvalidJob: it cannot be stored.
    """
    _check(tx, job)
    not_before = job.constraints.not_before
    later = not_before is not None and not_before > tx.now
    status = JobStatus.PENDING if job.constraints.depends_on or later else JobStatus.QUEUED
    return NewJob(job, lane_key(job), status, not_before if later else None)


def job_row(tx: Tx, one: NewJob) -> dict[str, Any]:
    """The row of a job that comes in; the caller adds seq and lane_id."""
    return {
        **new_row(one.job, now=tx.now),
        "model": one.lane.model,
        "group_key": one.lane.group_key,
        "status": one.status,
        "queued_at": tx.now if one.status is JobStatus.QUEUED else None,
        "run_at": one.run_at,
    }


def submitted_data(one: NewJob) -> dict[str, Any]:
    """What the first entry of its log says."""
    return {"to": str(one.status), "kind": str(one.job.kind), "backend": one.job.backend}


def invalid(field: str, message: str) -> InvalidJob:
    """The error for a job that cannot be stored."""
    return InvalidJob(f"{field}: {message}", details={"fields": [field]})


def _check(tx: Tx, job: Job) -> None:
    deadline = job.constraints.deadline
    if deadline is not None and deadline <= tx.now:
        raise invalid(
            "constraints.deadline", f"{deadline.isoformat()} has passed already; give a later one or none"
        )
    try:
        storable(model_of(job))
    except ValueError as error:
        raise invalid("payload", f"the model's name {error}") from None
    if job.id in job.constraints.depends_on:
        raise invalid("constraints.depends_on", "a job cannot depend on itself")
