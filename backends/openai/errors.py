"""Translation of the library's exceptions, and of errors inside answers, to ``crucible.errors``.

Raise the results ``from None``: the library's own exceptions may quote a key.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import JsonValue

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
from crucible.http.decompression import InvalidBody
from crucible.http.redaction import redacted
from crucible.http.retry_after import retry_after_ms

MAX_MESSAGE_CHARS: Final = 2000
_BY_STATUS: Final[dict[int, type[CrucibleError]]] = {
    401: AuthenticationFailed,
    402: OutOfCredit,
    403: AuthenticationFailed,
    408: RequestTimeout,
    409: BackendUnavailable,
    429: CapacityError,
}
_BY_WORD: Final[tuple[tuple[str, type[CrucibleError]], ...]] = (
    *((word, OutOfCredit) for word in ("insufficient_quota", "insufficient_balance", "billing", "payment")),
    *((word, CapacityError) for word in ("rate_limit", "ratelimit", "too_many_requests", "throttl")),
    *((word, AuthenticationFailed) for word in ("api_key", "authentication", "unauthorized", "permission")),
    ("timeout", RequestTimeout),
    *((word, InvalidRequest) for word in ("invalid", "context_length", "not_found", "bad_request", "unsupported")),
    *((word, InvalidRequest) for word in ("badrequest", "content_policy", "content_filter")),
    *((word, BackendUnavailable) for word in ("server_error", "overloaded", "unavailable", "internal", "engine")),
)
"""Parts of the codes and types of errors, in the order in which they count."""


def translated(error: Exception, model: str | None = None) -> CrucibleError:
    """The error for an exception of the library or of its HTTP client."""
    import openai

    if isinstance(error, CrucibleError):
        return error
    cause = error.__cause__
    if isinstance(error, InvalidBody) or isinstance(cause, InvalidBody):
        return MalformedAnswer(str(cause if isinstance(cause, InvalidBody) else error), backend=BACKEND)
    if isinstance(error, openai.APITimeoutError) or _has_base(error, "TimeoutException"):
        return RequestTimeout("no answer came in time", backend=BACKEND)
    if isinstance(error, openai.APIConnectionError):
        return BackendUnavailable(f"the server cannot be reached: {cause or error}", backend=BACKEND)
    if _has_base(error, "TransportError"):
        return BackendUnavailable(f"the connection broke: {error}", backend=BACKEND)
    if isinstance(error, openai.APIResponseValidationError):
        return MalformedAnswer(f"the answer does not follow the protocol: {error}", backend=BACKEND)
    if isinstance(error, openai.APIStatusError):
        return _of_status(error, model)
    return MalformedAnswer(f"the answer cannot be read: {error!r}", backend=BACKEND)


def error_in_answer(error: Any, model: str | None, *, backend: str = BACKEND) -> CrucibleError:
    """The error that a server sent with status 200 or in a stream: a text or an object, in its own class."""
    fields: Mapping[str, Any] = error if isinstance(error, Mapping) else {}
    code = fields.get("code")
    kind = _kind_of_codes(code, fields.get("status_code"), fields.get("status"), fields.get("type")) or BackendError
    message = fields.get("message") or fields.get("msg") or fields.get("detail") or error
    text = f"the server reported an error: {short(message)}"
    details: dict[str, JsonValue] = {"code": code if isinstance(code, str | int) else None}
    if kind is AuthenticationFailed:
        return AuthenticationFailed("the server refused the credential", backend=backend, details=details)
    if kind is InvalidRequest:
        field = fields.get("param")
        details["field"] = field if isinstance(field, str) else None
        details["model"] = model
    return kind(text, backend=backend, details=details)


def short(value: object) -> str:
    """A foreign value as text of bounded length, without credentials."""
    try:
        text = value if isinstance(value, str) else str(value)
    except (RecursionError, ValueError):
        text = f"(a {type(value).__name__})"
    text = redacted(text[: 16 * MAX_MESSAGE_CHARS])
    return text if len(text) <= MAX_MESSAGE_CHARS else f"{text[:MAX_MESSAGE_CHARS]}..."


def _kind_of_codes(*codes: object) -> type[CrucibleError] | None:
    for code in codes:
        number = int(code) if isinstance(code, str) and re.fullmatch("[45][0-9][0-9]", code) else code
        if isinstance(number, int) and 400 <= number < 600:
            return kind_of_status(number)
        if isinstance(code, str):
            word = code.lower().replace(" ", "_")
            kind = next((kind for part, kind in _BY_WORD if part in word), None)
            if kind is not None:
                return kind
    return None


def _of_status(error: Any, model: str | None) -> CrucibleError:
    status = error.status_code
    message = short(error.message)
    kind = OutOfCredit if error.code == "insufficient_quota" else kind_of_status(status)
    request_id = error.request_id if isinstance(error.request_id, str) else None
    common: dict[str, Any] = {"backend": BACKEND, "request_id": request_id}
    details: dict[str, JsonValue] = {"status": status}
    if kind is AuthenticationFailed:
        # the server's message may quote a part of the key
        text = f"the credential {KEY_VARIABLE} was refused (HTTP {status})"
        return AuthenticationFailed(text, details=details, **common)
    if kind is not InvalidRequest:
        return kind(message, retry_after_ms=retry_after_ms(error.response.headers), details=details, **common)
    if status == 404:
        missing = InvalidRequest.of("options.model", model, message, backend=BACKEND)
        missing.details["status"] = status
        return missing
    field = error.param if isinstance(error.param, str) else None
    details["field"] = field
    return InvalidRequest(f"{field}: {message}" if field else message, details=details, **common)


def kind_of_status(status: int) -> type[CrucibleError]:
    """The kind of error that an HTTP status means."""
    return _BY_STATUS.get(status) or (InvalidRequest if 400 <= status < 500 else BackendUnavailable)


def _has_base(error: Exception, name: str) -> bool:
    """Check whether the exception has a base class of this name: httpx and httpx2 have the same names."""
    return any(kind.__name__ == name for kind in type(error).__mro__)
