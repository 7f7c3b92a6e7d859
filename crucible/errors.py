"""The family of errors, shared by backends and the queue.

CrucibleError
├── CallerError                 the request is invalid; a repeat would fail too
│   ├── InvalidRequest          a field has an invalid value
│   │   ├── UnknownBackend      no entry point has that name
│   │   └── CommandMissing      this process lacks the command; another may have it
│   ├── Unsupported             the backend lacks a capability that the request needs
│   ├── NotFound                an object that the request names does not exist
│   ├── NameTaken               a save under this name exists already
│   └── EnvironmentFailed       an environment of reinforcement learning failed
├── BackendError                the backend or the connection to it failed
│   ├── BackendUnavailable      no answer, a reset connection, a 5xx after every retry
│   ├── RequestTimeout          no answer within the time limit
│   ├── CapacityError           rate or concurrency limit reached; carries retry_after_ms
│   ├── OutOfCredit             the account has no credit; the job is paused
│   ├── AuthenticationFailed    the credential was refused; the error names it without its value
│   │   └── CredentialMissing   no credential is configured in this process; another process may have one
│   ├── MalformedAnswer         the backend's answer does not follow its protocol
│   ├── AnswerLost              the effect of a request can no longer be determined
│   ├── RunGone                 the remote run or its session no longer exists
│   ├── RunCorrupted            the remote run is corrupted: by flag, by error or by value
│   ├── NoCheckpoint            no usable checkpoint to recover from
│   ├── RecoveryExhausted       every attempt of a recovery failed
│   ├── CommandFailed           the code of a command raised an error of its own
│   │   └── CommandRetry        the command requests another attempt
│   └── PluginError             a backend plug-in could not be loaded or broke the contract
└── Canceled                    the caller canceled the operation

An error has fields for the queue's decision (category, code, retryable, retry_after_ms) and for the user (message,
backend, request_id, details), and survives pickling. ``retryable`` states whether the same request may succeed
later; whether it is retried is the queue's decision, not the backend's. Credentials that were announced to
``crucible.http.redaction`` are hidden in every error, whatever text of a service it quotes.
"""

from collections.abc import Iterator, Mapping
from copy import copy
from enum import Enum, StrEnum
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, JsonValue

from crucible.http.redaction import redacted, redacted_json
from crucible.values.json_types import to_json
from crucible.values.record import Record
from crucible.values.scalars import Count, Message


class ErrorCategory(StrEnum):
    """The category of an error, by which retry policies select."""

    VALIDATION = "validation"
    RESOURCE = "resource"
    TIMEOUT = "timeout"
    BACKEND = "backend"
    NETWORK = "network"
    QUOTA = "quota"
    PERMISSION = "permission"
    INTERNAL = "internal"
    CANCELED = "canceled"


class Failure(Record):
    """An error as data, for the store and for other processes."""

    category: ErrorCategory
    code: str
    message: Message
    retryable: bool = False
    retry_after_ms: Count | None = None
    details: Annotated[dict[str, JsonValue], BeforeValidator(to_json)] = Field(default_factory=dict)


class CrucibleError(Exception):
    """The base class of all errors."""

    category: ClassVar[ErrorCategory] = ErrorCategory.INTERNAL
    code: ClassVar[str] = "internal"
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        backend: str | None = None,
        request_id: str | None = None,
        retry_after_ms: int | None = None,
        details: Mapping[str, JsonValue] | None = None,
    ) -> None:
        self.message = redacted(message)
        super().__init__(self.message)
        self.backend = backend
        self.request_id = request_id and redacted(request_id)
        self.retry_after_ms = retry_after_ms
        self.details = _redacted_details(details or {})

    def __str__(self) -> str:
        marks = [f"backend {self.backend}"] if self.backend else []
        marks += [f"request {self.request_id}"] if self.request_id else []
        return f"{self.message} ({', '.join(marks)})" if marks else self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), vars(self)))

    @property
    def on_record(self) -> bool:
        """The service accepted the operation, failed it, and answers every repeat under the same sequence number
        with this failure."""
        return self.details.get("on_record") is True

    def as_final(self, message: str) -> Self:
        """Return a copy with another message, which no policy retries."""
        final = copy(self)
        final.message, final.retryable = redacted(message), False
        return final

    def failure(self) -> Failure:
        """Return this error as data."""
        details = _redacted_details(self.details)  # they may have been added to since
        if self.backend:
            details["backend"] = self.backend
        if self.request_id:
            details["request_id"] = self.request_id
        return Failure(
            category=self.category,
            code=self.code,
            message=self.message,
            retryable=self.retryable,
            retry_after_ms=self.retry_after_ms,
            details=details,
        )


class CallerError(CrucibleError):
    """The request is invalid; a repeat would fail too."""

    category = ErrorCategory.VALIDATION
    code = "invalid"


def shown_value(value: object, limit: int = 80) -> str:
    """Return the repr of a value, cut to ``limit`` characters, for an error."""
    try:
        shown = repr(value.value if isinstance(value, Enum) else value)
    except (ValueError, RecursionError):  # an integer with thousands of digits, or deep nesting
        shown = f"a {type(value).__name__}"
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


class InvalidRequest(CallerError):
    """A field has an invalid value."""

    code = "invalid_request"

    @classmethod
    def of(cls, field: str, value: object, allowed: str, *, backend: str | None = None) -> Self:
        """Create an error that names the field, its value, and what is allowed."""
        shown = shown_value(value, 120)
        return cls(
            f"{field}: {shown} is not allowed; {allowed}",
            backend=backend,
            details={"field": field, "value": shown, "allowed": allowed},
        )


class UnknownBackend(InvalidRequest):
    """No entry point has that name."""

    code = "unknown_backend"


class CommandMissing(InvalidRequest):
    """This process lacks the code of the command, or may not run it. Another process may."""

    code = "command_missing"


class Unsupported(CallerError):
    """The backend lacks a capability that the request needs."""

    code = "unsupported"


class NotFound(CallerError):
    """An object that the request names does not exist."""

    code = "not_found"


class NameTaken(CallerError):
    """A save under this name exists already. If the name is ours, the earlier save succeeded."""

    code = "name_taken"


class EnvironmentFailed(CallerError):
    """An environment of reinforcement learning failed: it raised an error of its own, or gave no finite reward."""

    code = "environment_failed"


class BackendError(CrucibleError):
    """The backend or the connection to it failed."""

    category = ErrorCategory.BACKEND
    code = "backend_error"


class BackendUnavailable(BackendError):
    """No answer, a reset connection, or a 5xx after every retry of the request."""

    category = ErrorCategory.NETWORK
    code = "backend_unavailable"
    retryable = True


class RequestTimeout(BackendError):
    """No answer arrived within the time limit."""

    category = ErrorCategory.TIMEOUT
    code = "timeout"
    retryable = True


class CapacityError(BackendError):
    """A rate or concurrency limit was reached; ``retry_after_ms`` is set if the backend requests a delay."""

    category = ErrorCategory.QUOTA
    code = "capacity"
    retryable = True


class OutOfCredit(BackendError):
    """The account has no credit. The job is not at fault: it is paused and resumes by itself."""

    category = ErrorCategory.QUOTA
    code = "out_of_credit"
    retryable = True


class AuthenticationFailed(BackendError):
    """The credential was refused. The error names the credential without its value."""

    category = ErrorCategory.PERMISSION
    code = "authentication_failed"


class CredentialMissing(AuthenticationFailed):
    """No credential is configured in this process. The error names the variable to set."""

    code = "credential_missing"


class MalformedAnswer(BackendError):
    """The backend's answer does not follow its protocol."""

    code = "malformed_answer"


class AnswerLost(BackendError):
    """The effect of a request can no longer be determined (HTTP 410 on a future, or the future is unknown)."""

    code = "answer_lost"
    retryable = True


class RunGone(BackendError):
    """The remote run or its session no longer exists."""

    code = "run_gone"
    retryable = True


class RunCorrupted(BackendError):
    """The remote run is corrupted: the service flagged it, refused it as such, or returned NaN or inf."""

    code = "run_corrupted"
    retryable = True


class NoCheckpoint(BackendError):
    """No usable checkpoint to recover from exists."""

    code = "no_checkpoint"


class RecoveryExhausted(BackendError):
    """Every attempt of a recovery failed."""

    code = "max_attempts_exceeded"


class CommandFailed(BackendError):
    """The code of a command raised an error of its own, whose text is in the log only: it may contain secrets."""

    category = ErrorCategory.INTERNAL
    code = "command_failed"


class CommandRetry(CommandFailed):
    """Raised by a command to request another attempt, after ``retry_after_ms`` if set."""

    code = "command_retry"
    retryable = True


class PluginError(BackendError):
    """A plug-in (a backend or an environment) could not be loaded, or violated its contract."""

    code = "plugin_error"


class Canceled(CrucibleError):
    """The caller canceled the operation."""

    category = ErrorCategory.CANCELED
    code = "canceled"


def _redacted_details(details: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    return {redacted(str(name)): redacted_json(to_json(value)) for name, value in details.items()}


def error_from(failure: Failure, *, default: type[CrucibleError] = BackendError) -> CrucibleError:
    """Rebuild the error that a failure records, in the class that declares its code, else in ``default``."""
    kind = next((kind for kind in _family(CrucibleError) if kind.code == failure.code), default)
    details = dict(failure.details)
    names = {name: details.pop(name) for name in ("backend", "request_id") if isinstance(details.get(name), str)}
    return _rebuild(
        kind,
        {
            "message": failure.message,
            "backend": names.get("backend"),
            "request_id": names.get("request_id"),
            "retry_after_ms": failure.retry_after_ms,
            "details": details,
            **({} if failure.retryable == kind.retryable else {"retryable": failure.retryable}),
        },
    )


def _rebuild(kind: type[CrucibleError], fields: dict[str, Any]) -> CrucibleError:
    """An error without a call to its constructor, whose parameters may be a subclass's own."""
    error = kind.__new__(kind, fields["message"])
    vars(error).update(fields)
    return error


def _family(root: type[CrucibleError]) -> Iterator[type[CrucibleError]]:
    """The class and its subclasses, a base before what inherits its code."""
    yield root
    for kind in root.__subclasses__():
        yield from _family(kind)
