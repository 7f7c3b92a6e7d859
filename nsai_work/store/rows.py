"""Conversion between jobs and table rows."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import RowMapping, Select, select

from crucible.errors import Failure
from nsai_work.job import Job, Priority
from nsai_work.store.schema import jobs, specs

STATE_FIELDS: Final = frozenset({
    "status", "wait_reason", "attempt", "fence", "created_at", "queued_at", "run_at", "started_at", "completed_at",
    "cancel_requested_at", "worker_id", "result", "error",
})  # fmt: skip
"""The fields of a job that the store sets. The other fields are immutable."""

RANKS: Final = {priority.rank: priority for priority in Priority}


def select_jobs() -> Select[Any]:
    """SELECT of all job columns with the immutable spec."""
    return select(jobs, specs.c.spec).join_from(jobs, specs, specs.c.job_seq == jobs.c.seq)


def spec_of(job: Job) -> dict[str, Any]:
    """The immutable fields of a job, as JSON."""
    return job.model_dump(mode="json", exclude=set(STATE_FIELDS))


def job_of(values: RowMapping | Mapping[str, Any], **changed: object) -> Job:
    """The job of a row. ``changed`` overrides fields of its state."""
    state = {name: values[name] for name in STATE_FIELDS}
    return Job.model_validate({**values["spec"], **state, **changed})


def failure_of(value: dict[str, Any] | None) -> Failure | None:
    """The failure in a JSON column."""
    return None if value is None else Failure.model_validate(value)


def failure_json(failure: Failure | None) -> dict[str, Any] | None:
    """A failure as JSON for a column."""
    return None if failure is None else failure.model_dump(mode="json")


def new_row(job: Job, *, now: datetime) -> dict[str, Any]:
    """The row of a new job. The caller adds seq, lane_id, status and times."""
    return {
        "id": job.id,
        "tenant_id": job.tenant_id,
        "namespace": job.namespace,
        "kind": str(job.kind),
        "backend": job.backend,
        "rank": job.priority.rank,
        "idempotency_key": job.idempotency_key,
        "parent_id": job.parent_id,
        "attempt": 0,
        "fence": 0,
        "crashes": 0,
        "progress": 0,
        "beat": 0,
        "created_at": now,
        "deadline": job.constraints.deadline,
    }
