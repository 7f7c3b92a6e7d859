"""Recovery events and their observers."""

import inspect
import logging
from collections.abc import Awaitable
from enum import StrEnum
from typing import Annotated, Protocol

from pydantic import AfterValidator, Field, JsonValue

from crucible.http.redaction import redacted_json
from crucible.values.json_types import FiniteObject
from crucible.values.record import Record

_log = logging.getLogger(__name__)


class RecoveryEventName(StrEnum):
    """The last part of an event's name; the backend's name precedes it (``tinkex.recovery.detected``)."""

    DETECTED = "detected"
    STARTED = "started"
    CHECKPOINT_SELECTED = "checkpoint_selected"
    CHECKPOINT_REJECTED = "checkpoint_rejected"
    CLIENT_CREATED = "client_created"
    COMPLETED = "completed"
    FAILED = "failed"
    EXHAUSTED = "exhausted"
    POLL_ERROR = "poll_error"
    CALLBACK_FAILED = "callback_failed"
    DISABLED = "disabled"


class RecoveryEvent(Record):
    """An event of a recovery; ``name`` is the full event name. Details quote errors, without credentials."""

    name: str
    run_id: str
    details: Annotated[FiniteObject, AfterValidator(redacted_json)] = Field(default_factory=dict)


class RecoveryObserver(Protocol):
    """A function or coroutine function that receives every event as it happens. It must not raise."""

    def __call__(self, event: RecoveryEvent, /) -> Awaitable[None] | None: ...


class Announcer:
    """Sends the events of one backend, ``<backend>.recovery.<name>``, to an observer.

    An exception of the observer is logged and does not stop the recovery.
    """

    def __init__(self, backend: str, observe: RecoveryObserver | None = None) -> None:
        self._backend = backend
        self._observe = observe

    async def __call__(self, name: RecoveryEventName, run_id: str, **details: JsonValue) -> None:
        event = RecoveryEvent(name=f"{self._backend}.recovery.{name}", run_id=run_id, details=details)
        _log.debug("%s of run %s: %s", event.name, run_id, details)
        if self._observe is None:
            return
        try:
            answer = self._observe(event)
            if inspect.isawaitable(answer):
                await answer
        except Exception:
            _log.exception("the observer of %s failed", event.name)
