"""Stored rows that this version cannot read: written by another version, by hand, or damaged.

Such a row never hides or stops another. It is read as far as possible, and its error says what is wrong.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from crucible.errors import CrucibleError, Failure, error_from
from crucible.values.json_types import json_problem, to_json
from nsai_work.errors import InvalidJob, UnreadableJob
from nsai_work.job import Job, Priority
from nsai_work.lifecycle import JobStatus
from nsai_work.payloads import JobKind, Payload

_NO_PAYLOAD: Final[dict[str, Any]] = {"kind": JobKind.COMPOSITE, "payload": {}}
_STAND_INS: Final[dict[str, dict[str, Any]]] = {
    "id": {"id": "unreadable"},
    "kind": _NO_PAYLOAD,
    "payload": _NO_PAYLOAD,
}
_BY_RANK: Final = {priority.rank: priority for priority in Priority}


class DamagedJob(Job):
    """A job as far as it can be read; other fields have their defaults. ``error`` says what cannot be read."""

    @property
    def parsed_payload(self) -> Payload:
        """Raises UnreadableJob, which ends an attempt at this job."""
        assert self.error is not None
        raise error_from(self.error)

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """As of a job. Kind and payload are as they are stored, of whatever type."""
        return super().model_dump(**{**options, "warnings": False})


def damaged_job(values: Mapping[str, Any]) -> DamagedJob:
    """Return what can be read of a job that is not valid."""
    data = dict(values)
    problems: dict[str, str] = {}
    # each round drops the fields that are invalid; a validator of several fields may need another round
    for _ in range(len(Job.model_fields)):
        try:
            readable = Job.model_validate(data)
        except (ValidationError, CrucibleError) as error:
            for field, problem in _invalid_fields(error).items():
                problems.setdefault(field, problem)
                data.pop(field, None)
                data |= _STAND_INS.get(field, {})
        else:
            break
    else:
        readable = Job(kind=JobKind.COMPOSITE, payload={}, id=str(to_json(str(values.get("id"))))[:64] or "?")
    fields = {name: getattr(readable, name) for name in Job.model_fields}
    # as stored, so that nobody takes a stand-in for the job
    fields |= {name: _as_stored(values[name]) for name in ("id", "kind", "payload") if name in values}
    if "status" in problems:
        fields["status"] = JobStatus.FAILED
    return DamagedJob.model_construct(set(fields), **{**fields, "error": _failure(fields, problems)})


def _as_stored(value: object) -> object:
    return value if isinstance(value, JobKind) or json_problem(value) is None else to_json(value)


def _invalid_fields(error: ValidationError | CrucibleError) -> dict[str, str]:
    if isinstance(error, ValidationError):
        complaints = InvalidJob.from_validation(error, Job).message.split("\n")
        located = zip((item["loc"] for item in error.errors(include_url=False)), complaints, strict=True)
        return {str(location[0]) if location else "payload": text for location, text in located}
    return {"payload": error.message}


def _failure(fields: Mapping[str, Any], problems: Mapping[str, str]) -> Failure:
    earlier = fields.get("error")
    return UnreadableJob(
        f"job {fields['id']} is stored in a form that this version cannot read: {'; '.join(problems.values())}",
        details={"fields": [*problems], "error": to_json(earlier and earlier.model_dump(mode="json"))},
    ).failure()


def status_of(stored: str) -> JobStatus:
    """Return the status of a row. An unknown one counts as failed: the job is neither run nor waited for."""
    try:
        return JobStatus(stored)
    except ValueError:
        return JobStatus.FAILED


def priority_of(rank: int) -> Priority:
    """Return the priority with this rank; the lowest for an unknown one."""
    return _BY_RANK.get(rank, Priority.OFFLINE)
