"""From LiteLLM's exceptions to the one family of errors."""

from typing import Any

from backends.litellm.settings import BACKEND
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
    Unsupported,
)


def translated(error: Exception, model: str | None) -> CrucibleError:
    """The error of our family that an exception of LiteLLM means."""
    from litellm import exceptions

    if isinstance(error, CrucibleError):
        error.backend = BACKEND
        return error
    common: dict[str, Any] = {"backend": BACKEND}
    said = str(getattr(error, "message", error))
    if isinstance(error, exceptions.AuthenticationError | exceptions.PermissionDeniedError):
        # The provider's own words may quote a part of the key.
        provider = getattr(error, "llm_provider", None) or "the provider"
        return AuthenticationFailed(f"the credential for {provider} was refused", **common)
    if isinstance(error, exceptions.BudgetExceededError):
        return OutOfCredit(said, **common)
    if isinstance(error, exceptions.RateLimitError):
        kind = OutOfCredit if "insufficient_quota" in said else CapacityError
        return kind(said, retry_after_ms=_retry_after_ms(error), **common)
    if isinstance(error, exceptions.UnsupportedParamsError):
        return Unsupported(said, **common)
    if isinstance(error, exceptions.NotFoundError):
        return InvalidRequest.of("options.model", model, said, backend=BACKEND)
    if isinstance(error, exceptions.BadRequestError | exceptions.UnprocessableEntityError):
        return InvalidRequest(f"model {model}: {said}", details={"model": model}, **common)
    if isinstance(error, exceptions.Timeout):
        return RequestTimeout(said, **common)
    if isinstance(error, exceptions.APIResponseValidationError):
        return MalformedAnswer(said, **common)
    if isinstance(
        error,
        exceptions.APIConnectionError
        | exceptions.InternalServerError
        | exceptions.ServiceUnavailableError
        | exceptions.BadGatewayError,
    ):
        return BackendUnavailable(said, retry_after_ms=_retry_after_ms(error), **common)
    if isinstance(error, exceptions.APIError):
        return BackendError(said, **common)
    return MalformedAnswer(f"the answer cannot be read: {error!r}", **common)


def _retry_after_ms(error: Any) -> int | None:
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    try:
        wait = float(headers.get("retry-after", "")) * 1000
    except ValueError:
        return None
    return int(wait) if 0 <= wait <= 86_400_000 else None
