"""From the library's exceptions to the one family of errors."""

from typing import Any

from backends.openai.settings import BACKEND, KEY_NAME
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


def translated(error: Exception, model: str | None = None) -> CrucibleError:
    """The error of our family that an exception of the library means."""
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
        return BackendError(f"the server broke off: {error.message}", backend=BACKEND)
    return MalformedAnswer(f"the answer cannot be read: {error!r}", backend=BACKEND)


def _of_status(error: Any, model: str | None) -> CrucibleError:
    status, said = error.status_code, error.message
    common: dict[str, Any] = {"backend": BACKEND, "request_id": error.request_id}
    if status in (401, 403):
        # The server's own words may quote a part of the key.
        return AuthenticationFailed(f"the credential {KEY_NAME} was refused (HTTP {status})", **common)
    if status == 402 or error.code == "insufficient_quota":
        return OutOfCredit(said, **common)
    if status == 404:
        return InvalidRequest.of("options.model", model, said, backend=BACKEND)
    if status == 408:
        return RequestTimeout(said, **common)
    if status == 429:
        return CapacityError(said, retry_after_ms=_retry_after_ms(error), **common)
    if 400 <= status < 500 and status != 409:
        field = error.param if isinstance(error.param, str) else None
        return InvalidRequest(
            f"{field}: {said}" if field else said, details={"field": field, "status": status}, **common
        )
    return BackendUnavailable(said, retry_after_ms=_retry_after_ms(error), **common)


def _retry_after_ms(error: Any) -> int | None:
    headers = error.response.headers
    for name, scale in (("retry-after-ms", 1), ("retry-after", 1000)):
        try:
            wait = float(headers.get(name, "")) * scale
        except ValueError:
            continue
        if 0 <= wait <= 86_400_000:
            return int(wait)
    return None
