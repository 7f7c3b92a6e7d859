"""The errors of the Tinker SDK, and the translation of this client's errors into them.

A program that catches ``tinker.RateLimitError`` catches it here too. The original is the error's ``__cause__``.
"""

from typing import Any, Final

from backends.tinkex.types.future_answer import RequestErrorCategory
from crucible import errors as ours
from crucible.errors import CrucibleError


class TinkerError(Exception):
    """The base class of all errors."""


class APIError(TinkerError):
    """An error of a call."""

    def __init__(self, message: str, request: Any = None, *, body: object = None) -> None:
        super().__init__(message)
        self.message = message
        self.request = request
        self.body = body

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuilt, (type(self), self.args, vars(self)))


class APIResponseValidationError(APIError):
    """An answer that does not follow the protocol."""


class APIConnectionError(APIError):
    """No answer."""


class APITimeoutError(APIConnectionError):
    """No answer within the time limit."""


class APIStatusError(APIError):
    """An answer with an error status. ``response`` is None: this client does not keep it."""

    status_code: int = 0

    def __init__(self, message: str, response: Any = None, body: object = None, *, status_code: int = 0) -> None:
        super().__init__(message, body=body)
        self.response = response
        self.status_code = status_code or type(self).status_code


class BadRequestError(APIStatusError):
    """The request is invalid."""

    status_code = 400


class InvalidArgumentError(BadRequestError, ValueError):
    """An argument that this client refuses before anything is sent."""


class AuthenticationError(APIStatusError):
    """The key is missing or was refused."""

    status_code = 401


class BillingError(APIStatusError):
    """The account has no credit."""

    status_code = 402


class PermissionDeniedError(APIStatusError):
    """The account may not do this."""

    status_code = 403


class NotFoundError(APIStatusError):
    """There is no such object, or the server lacks the call."""

    status_code = 404


class ConflictError(APIStatusError):
    """The request contradicts the state of the object, such as a name that is taken."""

    status_code = 409


class UnprocessableEntityError(APIStatusError):
    """A field has an invalid value."""

    status_code = 422


class RateLimitError(APIStatusError):
    """A limit of requests or of runs is reached."""

    status_code = 429


class InternalServerError(APIStatusError):
    """The server failed."""

    status_code = 500


class RequestFailedError(TinkerError):
    """A request that failed after the server had accepted it."""

    def __init__(
        self,
        message: str,
        request_id: str | None = None,
        category: RequestErrorCategory = RequestErrorCategory.UNKNOWN,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id
        self.category = category

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuilt, (type(self), self.args, vars(self)))


class RunCorruptedError(RequestFailedError):
    """The run is corrupted: no later result of it can be trusted.

    ``checkpoint`` is the newest training state that this program saved of it or started it from, and ``step`` the
    number of optimizer steps that this program had taken on the run at that save; both are None without a save.
    """

    def __init__(
        self,
        reason: str,
        run_id: str | None = None,
        checkpoint: str | None = None,
        step: int | None = None,
        request_id: str | None = None,
    ) -> None:
        newest = "it has no checkpoint" if checkpoint is None else f"its newest checkpoint is {checkpoint}"
        at = "" if step is None else f", after {step} optimizer steps of this program"
        message = f"the run {run_id} is corrupted ({reason}); {newest}{at}. Start the program again to resume there"
        super().__init__(message, request_id, RequestErrorCategory.SERVER)
        self.run_id, self.checkpoint, self.step = run_id, checkpoint, step


_BY_STATUS: Final[dict[int, type[APIStatusError]]] = {
    kind.status_code: kind
    for kind in (
        BadRequestError,
        AuthenticationError,
        BillingError,
        PermissionDeniedError,
        NotFoundError,
        ConflictError,
        UnprocessableEntityError,
        RateLimitError,
    )
}
_BY_CLASS: Final[tuple[tuple[type[CrucibleError], type[APIError]], ...]] = (
    (ours.AuthenticationFailed, AuthenticationError),
    (ours.OutOfCredit, BillingError),
    (ours.RequestTimeout, APITimeoutError),
    (ours.CapacityError, RateLimitError),
    (ours.BackendUnavailable, APIConnectionError),
    (ours.MalformedAnswer, APIResponseValidationError),
    (ours.NameTaken, ConflictError),
    (ours.NotFound, NotFoundError),
    (ours.RunGone, NotFoundError),
    (ours.AnswerLost, NotFoundError),
    (ours.Unsupported, NotFoundError),
    (ours.CallerError, InvalidArgumentError),
)
_SERVER_ERROR: Final = 500


def translated(error: CrucibleError) -> TinkerError:
    """Return the SDK's error for an error of this client."""
    text = str(error)
    if isinstance(error, ours.RunCorrupted):
        return RunCorruptedError(error.message, request_id=error.request_id)
    if error.on_record:
        return RequestFailedError(text, error.request_id, RequestErrorCategory(str(error.details["category"])))
    status = error.details.get("status")
    if isinstance(status, int) and not isinstance(error, ours.RequestTimeout):
        by_status = InternalServerError if status >= _SERVER_ERROR else _BY_STATUS.get(status, APIStatusError)
        return by_status(text, status_code=status)
    return next((kind(text) for ours_kind, kind in _BY_CLASS if isinstance(error, ours_kind)), APIError(text))


def _rebuilt(kind: type[Exception], args: tuple[Any, ...], fields: dict[str, Any]) -> Exception:
    error = kind.__new__(kind)
    error.args = args
    vars(error).update(fields)
    return error
