"""Translation of the library's exceptions to ``crucible.errors``."""

from typing import Any, Final

from backends.openai.settings import BACKEND, KEY_VARIABLE
from crucible.errors import (
    AuthenticationFailed,
    BackendError,
    BackendUnavailable,
    CapacityError,
    CrucibleError,
    InvalidRequest,
    MalformedAnswer,
    OutOfCredit,
    RequestTimeout,
)
from crucible.retry_after import retry_after_ms

_BY_STATUS: Final[dict[int, type[CrucibleError]]] = {
    401: AuthenticationFailed,
    402: OutOfCredit,
    403: AuthenticationFailed,
    408: RequestTimeout,
    409: BackendUnavailable,
    429: CapacityError,
}


def translated(error: Exception, model: str | None = None) -> CrucibleError:
    """The error for an exception of the library."""
    import openai

    if isinstance(error, CrucibleError):
        return error
    if isinstance(error, openai.APITimeoutError):
        return RequestTimeout("no answer came in time", backend=BACKEND)
    if isinstance(error, openai.APIConnectionError):
        return BackendUnavailable(f"the server cannot be reached: {error.__cause__ or error}", backend=BACKEND)
    if isinstance(error, openai.APIResponseValidationError):
        return MalformedAnswer(f"the answer does not follow the protocol: {error}", backend=BACKEND)
    if isinstance(error, openai.APIStatusError):
        return _of_status(error, model)
    if isinstance(error, openai.APIError):
        return BackendError(f"the server reported an error: {error.message}", backend=BACKEND)
    return MalformedAnswer(f"the answer cannot be read: {error!r}", backend=BACKEND)


def _of_status(error: Any, model: str | None) -> CrucibleError:
    status, message = error.status_code, error.message
    kind = OutOfCredit if error.code == "insufficient_quota" else kind_of_status(status)
    common: dict[str, Any] = {"backend": BACKEND, "request_id": error.request_id}
    if kind is AuthenticationFailed:
        # the server's message may quote a part of the key
        return AuthenticationFailed(f"the credential {KEY_VARIABLE} was refused (HTTP {status})", **common)
    if kind is not InvalidRequest:
        return kind(message, retry_after_ms=retry_after_ms(error.response.headers), **common)
    if status == 404:
        return InvalidRequest.of("options.model", model, message, backend=BACKEND)
    field = error.param if isinstance(error.param, str) else None
    return InvalidRequest(
        f"{field}: {message}" if field else message, details={"field": field, "status": status}, **common
    )


def kind_of_status(status: int) -> type[CrucibleError]:
    """The kind of error that an HTTP status means."""
    return _BY_STATUS.get(status) or (InvalidRequest if 400 <= status < 500 else BackendUnavailable)
