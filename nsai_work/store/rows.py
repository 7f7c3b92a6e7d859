"""Conversion between jobs and table rows."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import RowMapping, Select, select

from crucible.errors import CrucibleError, Failure
from crucible.values.json_types import to_json
from nsai_work.errors import UnreadableJob
from nsai_work.job import STATE_FIELDS, Job
from nsai_work.store.damaged import damaged_job
from nsai_work.store.schema import jobs, specs


def select_jobs() -> Select[Any]:
    """SELECT of all job columns with the immutable spec."""
    return select(jobs, specs.c.spec).join_from(jobs, specs, specs.c.job_seq == jobs.c.seq)


def spec_of(job: Job) -> dict[str, Any]:
    """The immutable fields of a job, as JSON."""
    return job.model_dump(mode="json", exclude=set(STATE_FIELDS))


def job_of(values: RowMapping | Mapping[str, Any], **changed: object) -> Job:
    """The job of a row; a DamagedJob if it is not valid. ``changed`` overrides fields of its state."""
    state = {name: values[name] for name in STATE_FIELDS}
    spec = values["spec"]
    if not isinstance(spec, Mapping):
        return damaged_job({**_columns(values), **state, **changed})
    # by the row's id it is found and changed, whatever a damaged spec has
    data = {**spec, "id": values["id"], **state, **changed}
    try:
        return Job.model_validate(data)
    except (ValidationError, CrucibleError):
        return damaged_job(data)


def _columns(values: RowMapping | Mapping[str, Any]) -> dict[str, Any]:
    """The immutable fields that are columns too, for a row without its spec."""
    names = ("id", "kind", "backend", "tenant_id", "namespace", "parent_id", "idempotency_key")
    return {name: values[name] for name in names if name in values} | {"payload": None}


def failure_of(value: dict[str, Any] | None) -> Failure | None:
    """The failure in a JSON column."""
    if value is None:
        return None
    try:
        return Failure.model_validate(value)
    except ValidationError:
        return UnreadableJob("a stored failure cannot be read", details={"stored": to_json(value)}).failure()


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
