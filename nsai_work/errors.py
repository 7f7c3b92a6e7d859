"""The errors of the queue. They extend the family of ``crucible.errors``.

CrucibleError
├── CallerError
│   ├── InvalidJob            a job or job file is invalid; names the fields
│   │   ├── KeyReused         the idempotency key belongs to a job with another content
│   │   └── FileUnusable      a file cannot be opened on this machine; perhaps on another
│   ├── BlobsElsewhere        a process would use another place for blobs than the database names
│   └── IllegalTransition     the life cycle has no such transition
├── NotFound
│   └── JobNotFound
└── WorkError
    ├── StoreUnavailable      the database does not answer
    │   └── StoreGone         the database's file was deleted or replaced while in use
    ├── StoreFull             the disk is full; nothing was written
    ├── BlobsUnavailable      the place of the blobs cannot be used
    ├── BlobDamaged           a blob is not the content that was stored
    ├── WaitTimedOut          a job has not ended within the time that a command waits for it
    ├── LeaseLost             another worker owns the job now: stop, write nothing
    ├── JobTimeout            the job's time limit or deadline has passed
    ├── DataChanged           the data has changed since the job was submitted
    ├── WorkerLost            the job's worker died or stopped answering
    ├── HandOver              the worker is shutting down; the job is requeued
    ├── ResumeUnproven        a resume does not meet the recovery policy
    ├── UnreadableJob         a stored job that this version cannot read
    ├── UnreadableJournal     a row of a job's journal that this version cannot read
    └── WorkerFailed          the worker process ended by itself
"""

from collections.abc import Collection, Mapping

from pydantic import BaseModel, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from crucible.errors import CallerError, CrucibleError, ErrorCategory, InvalidRequest, NotFound, shown_value
from crucible.values.field_names import fields_beside, place_of_field
from crucible.values.json_types import JSON_ERROR
from crucible.values.scalars import joined, problem_of
from crucible.values.suggestions import known_names
from crucible.values.union_errors import plain_errors


class InvalidJob(InvalidRequest):
    """A job or job file is invalid. The message names each invalid field, its value and what is allowed."""

    code = "invalid_job"

    @classmethod
    def from_validation(
        cls, error: ValidationError, model: type[BaseModel], *, prefix: str = "", hidden: Collection[str] = ()
    ) -> "InvalidJob":
        """Convert a pydantic error of ``model``; each of its complaints is a line of the message. The ``hidden``
        fields of the model are not the user's, and no suggestions."""
        complaints = [_complaint(item, prefix, model, hidden) for item in plain_errors(error)]
        fields: list[JsonValue] = [complaint.split(": ", 1)[0] for complaint in complaints]
        return cls("\n".join(complaints), details={"fields": fields})


def _misplaced(model: type[BaseModel], name: object, prefix: str) -> str:
    """The place where the model has a field of this name, as text to begin the help with; none if it has none."""
    place = place_of_field(model, name)
    return "" if place is None else f"it belongs at {'.'.join([*([prefix] if prefix else []), *place])}; "


def _complaint(item: ErrorDetails, prefix: str, model: type[BaseModel], hidden: Collection[str] = ()) -> str:
    location = item["loc"]
    field = ".".join([*([prefix] if prefix else []), *map(str, location)]) or "job"
    inside, message = problem_of(item)
    if item["type"] == JSON_ERROR:
        return f"{joined(field, inside)}: {message}"
    if item["type"] == "missing":
        return f"{field}: this field is required"
    if item["type"] == "extra_forbidden":
        beside = [name for name in fields_beside(model, location) if len(location) > 1 or name not in hidden]
        return (
            f"{field}: unknown field; {_misplaced(model, location[-1], prefix)}{known_names(location[-1], beside)}"
        )
    if item["type"] == "value_error" and isinstance(item.get("input"), Mapping):
        return f"{field}: {message}"  # of fields together: the message names them, and the whole block says nothing
    quotes = (
        "; put text in quotes" if item["type"] == "string_type" and isinstance(item["input"], int | float) else ""
    )
    return f"{field}: {message} (got {shown_value(item.get('input'))}){quotes}"


class KeyReused(InvalidJob):
    """The idempotency key belongs to a job with another content. The message names the fields that differ."""

    code = "key_reused"


class FileUnusable(InvalidJob):
    """A file that a job names cannot be opened on this machine. It may exist on another one."""

    code = "file_unusable"


class BlobsElsewhere(InvalidRequest):
    """The database names another place for its blobs than this process's settings. The message names both."""

    code = "blobs_elsewhere"


class IllegalTransition(CallerError):
    """The life cycle has no such transition."""

    code = "illegal_transition"


class JobNotFound(NotFound):
    """No job has this id."""

    code = "job_not_found"


class WorkError(CrucibleError):
    """An operation of the queue itself failed."""


class StoreUnavailable(WorkError):
    """The database does not answer."""

    category = ErrorCategory.RESOURCE
    code = "store_unavailable"
    retryable = True


class StoreGone(StoreUnavailable):
    """The database's file was deleted or replaced while this process used it. Nothing more is written to it."""

    code = "store_gone"
    retryable = False


class StoreFull(WorkError):
    """The disk is full. Nothing was written."""

    category = ErrorCategory.RESOURCE
    code = "store_full"
    retryable = True


class BlobsUnavailable(WorkError):
    """The place of the blobs cannot be read or written."""

    category = ErrorCategory.RESOURCE
    code = "blobs_unavailable"
    retryable = True


class BlobDamaged(WorkError):
    """A blob is not the content that was stored: a piece is missing or damaged. The message names the blob."""

    code = "blob_damaged"


class WaitTimedOut(WorkError):
    """A job has not ended within the time that a command waits for it. The job continues."""

    category = ErrorCategory.TIMEOUT
    code = "wait_timed_out"


class LeaseLost(WorkError):
    """Another worker owns the job now. The recipient of this error stops and writes nothing."""

    code = "lease_lost"
    retryable = True


class JobTimeout(WorkError):
    """The job's time limit or deadline has passed."""

    category = ErrorCategory.TIMEOUT
    code = "job_timeout"


class DataChanged(WorkError):
    """The training data has changed since the job was submitted, so that a resume could not be exact."""

    category = ErrorCategory.VALIDATION
    code = "data_changed"


class WorkerLost(WorkError):
    """The worker died or stopped answering."""

    category = ErrorCategory.RESOURCE
    code = "worker_lost"
    retryable = True


class HandOver(WorkError):
    """The worker is shutting down. The job is requeued, and the attempt does not count."""

    category = ErrorCategory.RESOURCE
    code = "hand_over"
    retryable = True


class ResumeUnproven(WorkError):
    """A resume does not meet the recovery policy: the optimizer's state was not restored."""

    category = ErrorCategory.BACKEND
    code = "cold_optimizer"


class UnreadableJob(WorkError):
    """A stored job cannot be read: it was written by another version, or the database was changed by hand."""

    code = "unreadable_job"


class UnreadableJournal(WorkError):
    """A row of a training job's journal cannot be read: it was written by another version, or changed by hand. The
    message names the table, the row and the field. Other jobs are not affected."""

    code = "unreadable_journal"


class WorkerFailed(WorkError):
    """The worker process ended by itself. Its jobs go on at other workers when their leases have expired."""

    code = "worker_failed"
