"""The queue's own errors, in the one family that starts at ``crucible.errors.CrucibleError``.

CrucibleError
├── CallerError
│   ├── InvalidJob            a job or job file is wrong; names the field
│   └── IllegalTransition     the life cycle has no such move
├── NotFound
│   └── JobNotFound
└── WorkError
    ├── StoreUnavailable      the database does not answer
    ├── StoreFull             the disk is full; nothing was half-written
    ├── LeaseLost             another owner has the job now: stop, write nothing
    ├── JobTimeout            the job's own time limit or deadline passed
    ├── DataChanged           the data is not what it was when the job was submitted
    ├── WorkerLost            the job's worker died or stopped answering
    ├── HandOver              the worker is shutting down; the job goes back to the queue as it is
    └── ResumeUnproven        a resume was not what the policy asks for
"""

from collections.abc import Sequence

from pydantic import JsonValue, ValidationError

from crucible.errors import CallerError, CrucibleError, ErrorCategory, InvalidRequest, NotFound


class InvalidJob(InvalidRequest):
    """A job or job file is wrong; the message names each wrong field, its value and what is allowed."""

    code = "invalid_job"

    @classmethod
    def from_validation(cls, error: ValidationError, *, prefix: str = "") -> "InvalidJob":
        """All complaints of a pydantic validation, a line each."""
        complaints = [_complaint(item, prefix) for item in error.errors(include_url=False)]
        fields: list[JsonValue] = [complaint.split(": ", 1)[0] for complaint in complaints]
        return cls("\n".join(complaints), details={"fields": fields})


def _complaint(item: "object", prefix: str) -> str:
    assert isinstance(item, dict)
    location: Sequence[object] = item.get("loc", ())
    field = ".".join([*([prefix] if prefix else []), *map(str, location)]) or "job"
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] in ("extra_forbidden", "missing"):
        message = {"extra_forbidden": "unknown field", "missing": "this field is required"}[item["type"]]
        return f"{field}: {message}"
    shown = repr(item.get("input"))
    return f"{field}: {message} (got {shown if len(shown) <= 80 else shown[:77] + '...'})"


class IllegalTransition(CallerError):
    """The life cycle has no such move."""

    code = "illegal_transition"


class JobNotFound(NotFound):
    """No job has this id."""

    code = "job_not_found"


class WorkError(CrucibleError):
    """Something of the queue's own failed."""


class StoreUnavailable(WorkError):
    """The database does not answer."""

    category = ErrorCategory.RESOURCE
    code = "store_unavailable"
    retryable = True


class StoreFull(WorkError):
    """The disk is full. Nothing was half-written."""

    category = ErrorCategory.RESOURCE
    code = "store_full"
    retryable = True


class LeaseLost(WorkError):
    """Another owner has the job now. Whoever gets this stops and writes nothing."""

    code = "lease_lost"
    retryable = True


class JobTimeout(WorkError):
    """The job's time limit or deadline passed."""

    category = ErrorCategory.TIMEOUT
    code = "job_timeout"


class DataChanged(WorkError):
    """The training data is not what it was when the job was submitted, so a resume could not be exact."""

    category = ErrorCategory.VALIDATION
    code = "data_changed"


class WorkerLost(WorkError):
    """The worker died or stopped answering."""

    category = ErrorCategory.RESOURCE
    code = "worker_lost"
    retryable = True


class HandOver(WorkError):
    """The worker is shutting down. The job goes back to the queue as it is; this is no failed attempt."""

    category = ErrorCategory.RESOURCE
    code = "hand_over"
    retryable = True


class ResumeUnproven(WorkError):
    """A resume was not what the recovery policy asks for: the optimizer did not come back."""

    category = ErrorCategory.BACKEND
    code = "cold_optimizer"
