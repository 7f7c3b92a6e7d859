"""Translation of error responses into ``crucible.errors``.

Every HTTP error status and every failed request is translated here and nowhere else. Each error carries
``backend="tinkex"``, the request id if there is one, and in ``details`` the HTTP status and the route.

    401 403 AuthenticationFailed    402 OutOfCredit        404 by the addressed resource (Resource)
    405 501 Unsupported             408 RequestTimeout     409 NameTaken on saves, else InvalidRequest
    410 AnswerLost                  429 CapacityError      400 413 422 InvalidRequest, naming the field
    5xx BackendUnavailable          "poisoned", NaN and similar words in any failure: RunCorrupted
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from pydantic import JsonValue
from pydantic_core import from_json

from crucible.errors import (
    AnswerLost,
    AuthenticationFailed,
    BackendError,
    BackendUnavailable,
    CallerError,
    CapacityError,
    CrucibleError,
    InvalidRequest,
    MalformedAnswer,
    NameTaken,
    NotFound,
    OutOfCredit,
    RequestTimeout,
    RunCorrupted,
    RunGone,
    Unsupported,
)
from crucible.http.retry_after import retry_after_ms

BACKEND: Final = "tinkex"


class RequestNotSent(BackendError):
    """A request was not sent because an earlier request of the run was not accepted."""

    code = "not_sent"
    retryable = True


class WrongLoop(CrucibleError):
    """A blocking call would block the event loop that it waits for."""

    code = "wrong_loop"


class ClientClosed(CallerError):
    """A request of a closed client was not sent. What repeats requests in the background ends with this error."""

    code = "client_closed"


class OrderUnclear(BackendError):
    """A server refused or lost a request that arrived before its turn. Which number the run expects next is
    unknown, so the run must not be used."""

    code = "order_unclear"


class Resource(StrEnum):
    """The resource that a request addresses; it determines what a 404 or 409 means."""

    SERVICE = "service"
    SESSION = "session"
    MODEL = "model"
    RUN = "run"
    FUTURE = "future"
    SAVE = "save"
    CHECKPOINT = "checkpoint"
    RECORD = "record"


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """A non-2xx response with the context of its request. Errors name the ``route``."""

    status: int
    route: str
    body: bytes
    resource: Resource
    headers: Mapping[str, str]
    request_id: str | None = None
    credential: str = "TINKER_API_KEY"


_CORRUPTED: Final = re.compile(
    r"\b(corrupt(ed|ion)?|poison(ed)?|non-?finite|not finite|nan(s)?|infinite (loss|gradient)s?)\b", re.IGNORECASE
)
_RUN_GONE: Final = re.compile(
    r"(model|training[ _]run|session|run)\b.{0,120}\b"
    r"(not found|not loaded|unloaded|does not exist|no longer|expired|ended|unknown|evicted|lost)"
    r"|unknown (model|training run|session)",
    re.IGNORECASE | re.DOTALL,
)
_CHECKPOINT_GONE: Final = re.compile(
    r"(checkpoint|tinker://).{0,300}(not found|does not exist|expired|no such|deleted)"
    r"|(no|unknown) checkpoint|no such (checkpoint|path)",
    re.IGNORECASE | re.DOTALL,
)
_TAKEN: Final = re.compile(r"already exists|name (is )?taken", re.IGNORECASE)
_SESSION_GONE: Final = re.compile(
    r"session.{0,80}(not found|does not exist|expired|ended)|unknown session", re.IGNORECASE | re.DOTALL
)
_ORDER: Final = re.compile(r"\bseq(uence)?(_id| id)?\b|expected \d+", re.IGNORECASE)
_UNKNOWN_ROUTE: Final = frozenset({"", "Not Found", "Method Not Allowed"})


def error_from_response(response: ErrorResponse) -> CrucibleError:
    """Return the typed error of an error response."""
    detail = _error_text(response.body)
    error = _from_status(response, detail)
    error.details.setdefault("status", response.status)
    error.details.setdefault("route", response.route)
    return error


def error_from_failed_request(
    message: str, category: str, *, route: str, request_id: str | None, resource: Resource = Resource.RUN
) -> CrucibleError:
    """Return the typed error of a request that failed after it was accepted.

    ``category`` is the server's own: user, server or unknown.
    """
    kind = _kind_by_text(message, resource)
    if kind is None:
        kind = InvalidRequest if category == "user" else BackendUnavailable
    details: dict[str, JsonValue] = {"category": category, "route": route, "on_record": True}
    return kind(f"{route} failed: {_short(message)}", backend=BACKEND, request_id=request_id, details=details)


def malformed(reason: str, *, route: str, request_id: str | None = None) -> MalformedAnswer:
    """Return the error for a response that violates the protocol."""
    return MalformedAnswer(f"{route}: {reason}", backend=BACKEND, request_id=request_id, details={"route": route})


def unsupported(capability: str, *, server: str) -> Unsupported:
    """Return the error for a capability that the server lacks; it names both."""
    return Unsupported(
        f"{capability} is not offered by the server at {server}",
        backend=BACKEND,
        details={"capability": capability, "server": server},
    )


def invalid(field: str, value: object, allowed: str) -> InvalidRequest:
    """Return the error for a field with an invalid value."""
    return InvalidRequest.of(field, value, allowed, backend=BACKEND)


def is_unknown_route(response: ErrorResponse) -> bool:
    """Return whether the server lacks the route itself, as opposed to the run, checkpoint or session."""
    if response.status in (405, 501):
        return True
    return response.status == 404 and _error_text(response.body).text.strip() in _UNKNOWN_ROUTE


@dataclass(frozen=True, slots=True)
class _ErrorText:
    text: str
    field: str | None


def _from_status(response: ErrorResponse, detail: _ErrorText) -> CrucibleError:
    status = response.status
    common: dict[str, Any] = {"backend": BACKEND, "request_id": response.request_id}
    text = f"{response.route} answered {status}: {detail.text or 'nothing'}"
    if status in (401, 403):
        return AuthenticationFailed(f"{text}; the credential {response.credential} was refused", **common)
    if status == 402:
        return OutOfCredit(text, retry_after_ms=retry_after_ms(response.headers), **common)
    if is_unknown_route(response):
        return Unsupported(f"{response.route} is not offered by this server (it answered {status})", **common)
    if status == 404:
        return _not_found(response, detail)(text, **common)
    if status == 408:
        return RequestTimeout(text, **common)
    if status == 409:
        return _conflict(response, detail, text, common)
    if status == 410:
        return (AnswerLost if response.resource is Resource.FUTURE else RunGone)(text, **common)
    if status == 429:
        return CapacityError(text, retry_after_ms=retry_after_ms(response.headers), **common)
    if status >= 500:
        kind = RunCorrupted if _CORRUPTED.search(detail.text) else BackendUnavailable
        return kind(text, retry_after_ms=retry_after_ms(response.headers), **common)
    if 400 <= status < 500:
        return _rejected(response, detail, text, common)
    return MalformedAnswer(text, **common)


def _not_found(response: ErrorResponse, detail: _ErrorText) -> type[CrucibleError]:
    kind = _kind_by_text(detail.text, response.resource)
    if kind is RunCorrupted:
        return kind
    if response.resource is Resource.FUTURE:
        return kind or AnswerLost
    if response.resource is Resource.CHECKPOINT:
        return kind or (RunGone if _SESSION_GONE.search(detail.text) else NotFound)
    if response.resource is Resource.MODEL:
        return RunGone if _SESSION_GONE.search(detail.text) else InvalidRequest
    if response.resource in (Resource.RUN, Resource.SESSION, Resource.SAVE):
        return RunGone
    return NotFound


def _conflict(response: ErrorResponse, detail: _ErrorText, text: str, common: dict[str, Any]) -> CrucibleError:
    if _TAKEN.search(detail.text) or (response.resource is Resource.SAVE and not _ORDER.search(detail.text)):
        return NameTaken(text, **common)
    return InvalidRequest(text, details={"field": detail.field or "seq_id"}, **common)


def _rejected(response: ErrorResponse, detail: _ErrorText, text: str, common: dict[str, Any]) -> CrucibleError:
    kind = _kind_by_text(detail.text, response.resource) if detail.field is None else None
    if kind is not None:
        return kind(text, **common)
    return InvalidRequest(text, details={"field": detail.field} if detail.field else {}, **common)


def _kind_by_text(text: str, resource: Resource) -> type[CrucibleError] | None:
    if resource is Resource.SERVICE:
        return None
    if _CORRUPTED.search(text):
        return RunCorrupted
    if resource in (Resource.SAVE, Resource.FUTURE) and _TAKEN.search(text):
        return NameTaken
    if _CHECKPOINT_GONE.search(text):
        return NotFound
    if resource in (Resource.RUN, Resource.SESSION, Resource.FUTURE, Resource.SAVE) and _RUN_GONE.search(text):
        return RunGone
    return None


def _error_text(body: bytes) -> _ErrorText:
    """Extract the message and the field from the error formats that servers use. Any body has a text."""
    raw = body[:65_536].decode(errors="replace").strip()
    try:
        parsed = from_json(raw)  # unlike json.loads, it bounds the depth
    except ValueError:
        return _ErrorText("" if raw.startswith("<") else _short(raw), None)
    if not isinstance(parsed, dict):
        return _ErrorText(_short(raw), None)
    for key in ("detail", "error", "message"):
        if key in parsed:
            return _parse_detail(parsed[key])
    return _ErrorText(_short(raw), None)


def _parse_detail(value: Any) -> _ErrorText:
    if isinstance(value, list):
        parts = [part for part in value if isinstance(part, dict)]
        fields = [_path(part.get("loc")) for part in parts]
        texts = [f"{field}: {part.get('msg', '')}" for field, part in zip(fields, parts, strict=True)]
        return _ErrorText(
            _short("; ".join(texts) if parts else str(value)), (fields[0] or None) if fields else None
        )
    if isinstance(value, dict):
        field = value.get("field")
        return _ErrorText(_short(str(value.get("message", value))), field if isinstance(field, str) else None)
    return _ErrorText(_short(str(value)), None)


def _path(location: object) -> str:
    """The path of a field; servers write it as a list or as text."""
    steps = location if isinstance(location, list) else [] if location is None else [location]
    return ".".join(str(key) for key in steps if key != "body")


def _short(text: str, limit: int = 1000) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
