"""From what a server says to the one family of errors.

Every HTTP status and every failed future becomes an error of ``crucible.errors`` here, and nowhere else. Each
carries ``backend="tinkex"``, the request id where there is one, and in ``details`` the HTTP status and the route.

    401 403 AuthenticationFailed    402 OutOfCredit        404 by what was asked for (Sought)
    405 501 Unsupported             408 RequestTimeout     409 NameTaken on saves, else InvalidRequest
    410 AnswerLost                  429 CapacityError      400 413 422 InvalidRequest, naming the field
    5xx BackendUnavailable          "poisoned", NaN and the like in any failure: RunCorrupted
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from pydantic import JsonValue

from crucible.errors import (
    AnswerLost,
    AuthenticationFailed,
    BackendError,
    BackendUnavailable,
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
from crucible.retry_after import retry_after_ms

BACKEND: Final = "tinkex"


class RequestNotSent(BackendError):
    """A request was not sent, because one before it in the run's order failed to be accepted."""

    code = "not_sent"
    retryable = True


class WrongLoop(CrucibleError):
    """A blocking call was made where it would block the event loop that it waits for."""

    code = "wrong_loop"


class Sought(StrEnum):
    """What a request is about: it decides what a 404 or 409 means."""

    SERVICE = "service"
    SESSION = "session"
    MODEL = "model"
    RUN = "run"
    FUTURE = "future"
    SAVE = "save"
    CHECKPOINT = "checkpoint"
    RECORD = "record"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is not a result. ``route`` is named in errors; ``body`` is what the server wrote."""

    status: int
    route: str
    body: bytes
    sought: Sought
    headers: Mapping[str, str]
    request_id: str | None = None
    credential: str = "TINKER_API_KEY"


_POISONED: Final = re.compile(
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


def error_of(refusal: Refusal) -> CrucibleError:
    """The typed error for an answer that is not a result."""
    said = _said(refusal.body)
    error = _by_status(refusal, said)
    error.details.setdefault("status", refusal.status)
    error.details.setdefault("route", refusal.route)
    return error


def failure_of(
    message: str, category: str, *, route: str, request_id: str | None, sought: Sought = Sought.RUN
) -> CrucibleError:
    """The typed error for a future that failed: ``category`` is the server's own (user, server, unknown)."""
    kind = _by_words(message, sought)
    if kind is None:
        kind = InvalidRequest if category == "user" else BackendUnavailable
    details: dict[str, JsonValue] = {"category": category, "route": route}
    return kind(f"{route} failed: {_short(message)}", backend=BACKEND, request_id=request_id, details=details)


def malformed(what: str, *, route: str, request_id: str | None = None) -> MalformedAnswer:
    """An answer that does not follow the protocol."""
    return MalformedAnswer(f"{route}: {what}", backend=BACKEND, request_id=request_id, details={"route": route})


def unsupported(capability: str, *, server: str) -> Unsupported:
    """The server lacks something; the error names both."""
    return Unsupported(
        f"{capability} is not offered by the server at {server}",
        backend=BACKEND,
        details={"capability": capability, "server": server},
    )


def invalid(field: str, value: object, allowed: str) -> InvalidRequest:
    """A field has a value that is not allowed."""
    return InvalidRequest.of(field, value, allowed, backend=BACKEND)


def is_unknown_route(refusal: Refusal) -> bool:
    """Whether the server has no such route at all, as against no such run, checkpoint or session."""
    if refusal.status in (405, 501):
        return True
    return refusal.status == 404 and _said(refusal.body).text.strip() in _UNKNOWN_ROUTE


@dataclass(frozen=True, slots=True)
class _Said:
    text: str
    field: str | None


def _by_status(refusal: Refusal, said: _Said) -> CrucibleError:
    status = refusal.status
    common: dict[str, Any] = {"backend": BACKEND, "request_id": refusal.request_id}
    text = f"{refusal.route} answered {status}: {said.text or 'nothing'}"
    if status in (401, 403):
        return AuthenticationFailed(f"{text}; the credential {refusal.credential} was refused", **common)
    if status == 402:
        return OutOfCredit(text, retry_after_ms=retry_after_ms(refusal.headers), **common)
    if is_unknown_route(refusal):
        return Unsupported(f"{refusal.route} is not offered by this server (it answered {status})", **common)
    if status == 404:
        return _not_found(refusal, said)(text, **common)
    if status == 408:
        return RequestTimeout(text, **common)
    if status == 409:
        return _conflict(refusal, said, text, common)
    if status == 410:
        return (AnswerLost if refusal.sought is Sought.FUTURE else RunGone)(text, **common)
    if status == 429:
        return CapacityError(text, retry_after_ms=retry_after_ms(refusal.headers), **common)
    if status >= 500:
        kind = RunCorrupted if _POISONED.search(said.text) else BackendUnavailable
        return kind(text, retry_after_ms=retry_after_ms(refusal.headers), **common)
    if 400 <= status < 500:
        return _refused(refusal, said, text, common)
    return MalformedAnswer(text, **common)


def _not_found(refusal: Refusal, said: _Said) -> type[CrucibleError]:
    by_words = _by_words(said.text, refusal.sought)
    if by_words is RunCorrupted:
        return by_words
    if refusal.sought is Sought.FUTURE:
        return by_words or AnswerLost
    if refusal.sought is Sought.CHECKPOINT:
        return by_words or (RunGone if _SESSION_GONE.search(said.text) else NotFound)
    if refusal.sought is Sought.MODEL:
        return RunGone if _SESSION_GONE.search(said.text) else InvalidRequest
    if refusal.sought in (Sought.RUN, Sought.SESSION, Sought.SAVE):
        return RunGone
    return NotFound


def _conflict(refusal: Refusal, said: _Said, text: str, common: dict[str, Any]) -> CrucibleError:
    if _TAKEN.search(said.text) or (refusal.sought is Sought.SAVE and not _ORDER.search(said.text)):
        return NameTaken(text, **common)
    return InvalidRequest(text, details={"field": said.field or "seq_id"}, **common)


def _refused(refusal: Refusal, said: _Said, text: str, common: dict[str, Any]) -> CrucibleError:
    by_words = _by_words(said.text, refusal.sought) if said.field is None else None
    if by_words is not None:
        return by_words(text, **common)
    return InvalidRequest(text, details={"field": said.field} if said.field else {}, **common)


def _by_words(text: str, sought: Sought) -> type[CrucibleError] | None:
    if sought is Sought.SERVICE:
        return None
    if _POISONED.search(text):
        return RunCorrupted
    if sought in (Sought.SAVE, Sought.FUTURE) and _TAKEN.search(text):
        return NameTaken
    if _CHECKPOINT_GONE.search(text):
        return NotFound
    if sought in (Sought.RUN, Sought.SESSION, Sought.FUTURE, Sought.SAVE) and _RUN_GONE.search(text):
        return RunGone
    return None


def _said(body: bytes) -> _Said:
    """The server's words, and the field they are about, out of the forms that servers use for errors."""
    raw = body[:65_536].decode(errors="replace").strip()
    try:
        parsed = json.loads(raw)
    except ValueError:
        return _Said("" if raw.startswith("<") else _short(raw), None)
    if not isinstance(parsed, dict):
        return _Said(_short(raw), None)
    for key in ("detail", "error", "message"):
        if key in parsed:
            return _words(parsed[key])
    return _Said(_short(raw), None)


def _words(said: Any) -> _Said:
    if isinstance(said, str):
        return _Said(_short(said), None)
    if isinstance(said, list):
        parts = [part for part in said if isinstance(part, dict)]
        fields = [".".join(str(step) for step in part.get("loc", ()) if step != "body") for part in parts]
        texts = [f"{field}: {part.get('msg', '')}" for field, part in zip(fields, parts, strict=True)]
        return _Said(_short("; ".join(texts)), fields[0] if fields else None)
    if isinstance(said, dict):
        field = said.get("field")
        return _Said(_short(str(said.get("message", said))), field if isinstance(field, str) else None)
    return _Said(_short(str(said)), None)


def _short(text: str, limit: int = 1000) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
