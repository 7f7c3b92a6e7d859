"""From LiteLLM's exceptions to the one family of errors."""

import os
import re
from typing import Any, Final

from backends.litellm_backend.settings import BACKEND
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

# By the name of LiteLLM's class or one of its parents, else by status. The first line that fits counts.
_BY_NAME: Final[tuple[tuple[str, type[CrucibleError]], ...]] = (
    ("UnsupportedParamsError", Unsupported),
    ("BudgetExceededError", OutOfCredit),
    ("PaymentRequiredError", OutOfCredit),
    ("APIResponseValidationError", MalformedAnswer),
    ("APITimeoutError", RequestTimeout),
)
_BY_STATUS: Final[dict[int, type[CrucibleError]]] = {
    401: AuthenticationFailed,
    402: OutOfCredit,
    403: AuthenticationFailed,
    408: RequestTimeout,
    409: BackendUnavailable,
    429: CapacityError,
}
_MOST_CHARS: Final = 2000
_SECRET_NAME: Final = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$")


def translated(error: Exception, model: str | None, key: str | None = None) -> CrucibleError:
    """The error of our family that an exception of LiteLLM means. Raise it ``from None``: LiteLLM's own text may
    quote a key, which is hidden here."""
    if isinstance(error, CrucibleError):
        error.backend = BACKEND
        return error
    kind = _kind(error)
    headers = _headers(error)
    common: dict[str, Any] = {"backend": BACKEND, "request_id": headers.get("x-request-id")}
    if kind is AuthenticationFailed:
        # The provider's own words may quote a part of the key.
        provider = getattr(error, "llm_provider", None) or "the provider"
        return AuthenticationFailed(f"the credential for {provider} (model {model}) was refused", **common)
    said = _without_secrets(str(getattr(error, "message", None) or error), key)[:_MOST_CHARS]
    if kind is not InvalidRequest:
        return kind(said, retry_after_ms=_retry_after_ms(headers), **common)
    if getattr(error, "status_code", None) == 404:
        return InvalidRequest.of("options.model", model, said, backend=BACKEND)
    field = getattr(error, "param", None)
    where = field if isinstance(field, str) else f"model {model}"
    return InvalidRequest(f"{where}: {said}", details={"field": field, "model": model}, **common)


def _kind(error: Exception) -> type[CrucibleError]:
    names = {kind.__name__ for kind in type(error).__mro__}
    for name, kind in _BY_NAME:
        if name in names:
            return kind
    status = getattr(error, "status_code", None)
    if not isinstance(status, int):
        return BackendError if "APIError" in names else MalformedAnswer
    if status == 429 and "insufficient_quota" in f"{getattr(error, 'body', '')}{error}":
        return OutOfCredit
    return _BY_STATUS.get(status) or (InvalidRequest if 400 <= status < 500 else BackendUnavailable)


def _headers(error: Any) -> dict[str, str]:
    of_answer = getattr(getattr(error, "response", None), "headers", None) or {}
    return {**dict(of_answer), **dict(getattr(error, "litellm_response_headers", None) or {})}


def _retry_after_ms(headers: dict[str, str]) -> int | None:
    for name, scale in (("retry-after-ms", 1), ("retry-after", 1000)):
        try:
            wait = float(headers.get(name, "")) * scale
        except ValueError:
            continue
        if 0 <= wait <= 86_400_000:
            return int(wait)
    return None


def _without_secrets(text: str, key: str | None) -> str:
    secrets = {value for name, value in os.environ.items() if _SECRET_NAME.search(name.upper())}
    for secret in sorted({*secrets, key or ""}, key=len, reverse=True):
        if len(secret) >= 8:
            text = text.replace(secret, "(hidden)")
    return text
