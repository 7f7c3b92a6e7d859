"""Translation of LiteLLM's exceptions to ``crucible.errors``."""

from collections.abc import Mapping
from typing import Any, Final

from backends.litellm_backend.settings import BACKEND
from backends.openai.errors import error_in_answer, kind_of_status, short
from crucible.errors import (
    AuthenticationFailed,
    BackendError,
    CrucibleError,
    InvalidRequest,
    MalformedAnswer,
    OutOfCredit,
    RequestTimeout,
    Unsupported,
)
from crucible.http.redaction import redacted
from crucible.http.retry_after import retry_after_ms

# names of LiteLLM's classes, also as base classes; the first match counts, otherwise the status
_BY_NAME: Final[tuple[tuple[str, type[CrucibleError]], ...]] = (
    ("UnsupportedParamsError", Unsupported),
    ("BudgetExceededError", OutOfCredit),
    ("PaymentRequiredError", OutOfCredit),
    ("APIResponseValidationError", MalformedAnswer),
    ("APITimeoutError", RequestTimeout),
)
_MAX_CHARS: Final = 2000
_MAX_CAUSES: Final = 6
_NO_ANSWERS: Final = ("Empty or invalid response from LLM endpoint", "that is not a list")
"""LiteLLM's texts for answers that are none, which have the status of a server's failure."""


def translated(error: Exception, model: str | None) -> CrucibleError:
    """The error for an exception of LiteLLM. Raise it ``from None``: LiteLLM's own message may quote a key."""
    if isinstance(error, CrucibleError):
        error.backend = BACKEND
        return error
    inner = _inner(error)
    if inner is not None:
        return inner
    kind = _kind(error)
    headers = _headers(error)
    common: dict[str, Any] = {"backend": BACKEND, "request_id": headers.get("x-request-id")}
    if kind is AuthenticationFailed:
        # the provider's message may quote a part of the key
        provider = getattr(error, "llm_provider", None) or "the provider"
        return AuthenticationFailed(f"the credential for {provider} (model {model}) was refused", **common)
    message = redacted(str(getattr(error, "message", None) or error))[:_MAX_CHARS]
    if kind is not InvalidRequest:
        return kind(message, retry_after_ms=retry_after_ms(headers), **common)
    if getattr(error, "status_code", None) == 404:
        return InvalidRequest.of("options.model", model, message, backend=BACKEND)
    field = getattr(error, "param", None)
    subject = field if isinstance(field, str) else f"model {model}"
    return InvalidRequest(f"{subject}: {message}", details={"field": field, "model": model}, **common)


def _inner(error: BaseException) -> CrucibleError | None:
    """The error for what LiteLLM wrapped: an error in an answer, or an answer that it could not read."""
    if any(text in str(error) for text in _NO_ANSWERS):
        return MalformedAnswer(f"the answer does not follow the protocol: {short(error)}", backend=BACKEND)
    cause = error
    for _ in range(_MAX_CAUSES):
        inner = getattr(cause, "original_exception", None) or cause.__cause__ or cause.__context__
        if inner is None:
            return None
        cause = inner
        body = getattr(cause, "body", None)
        if isinstance(body, Mapping) and getattr(cause, "status_code", None) is None:
            return error_in_answer(body, None, backend=BACKEND)
        if isinstance(cause, ValueError | TypeError | AttributeError | RecursionError):
            return MalformedAnswer(f"the answer does not follow the protocol: {short(cause)}", backend=BACKEND)
    return None


def _kind(error: Exception) -> type[CrucibleError]:
    names = {kind.__name__ for kind in type(error).__mro__}
    for name, kind in _BY_NAME:
        if name in names:
            return kind
    status = getattr(error, "status_code", None)
    if isinstance(status, str) and status.isdecimal():
        status = int(status)
    if not isinstance(status, int):
        return BackendError if "APIError" in names else MalformedAnswer
    if status == 429 and "insufficient_quota" in f"{getattr(error, 'body', '')}{error}":
        return OutOfCredit
    return kind_of_status(status)


def _headers(error: Any) -> dict[str, str]:
    """The response headers, with lower-case names."""
    response = getattr(getattr(error, "response", None), "headers", None) or {}
    headers = {**dict(response), **dict(getattr(error, "litellm_response_headers", None) or {})}
    return {name.lower(): value for name, value in headers.items()}
