"""Alerts about jobs, and the events that they are made from."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, Self

from pydantic import JsonValue

from crucible.errors import OutOfCredit
from crucible.values.record import Record
from crucible.values.scalars import Instant
from nsai_work.store.records import NotedEvent


class AlertKind(StrEnum):
    """The occasions of an alert."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    RECOVERED = "recovered"
    PAUSED = "paused"


_KINDS: Final[Mapping[str, AlertKind]] = {
    "job.succeeded": AlertKind.SUCCEEDED,
    "job.failed": AlertKind.FAILED,
    "job.timeout": AlertKind.FAILED,
    "job.canceled": AlertKind.CANCELED,
    "resume.warm": AlertKind.RECOVERED,
    "resume.restored": AlertKind.RECOVERED,
    "resume.restarted": AlertKind.RECOVERED,
    "job.queued": AlertKind.PAUSED,
}
"""The kind of the alert about an event, by the event's name. A job that is queued is paused if it lacks credit."""


class Alert(Record):
    """An alert: its ``id`` is the same at each delivery, so that a receiver can drop repeats."""

    id: str
    kind: AlertKind
    event: str
    at: Instant
    job_id: str
    name: str | None
    job_kind: str
    backend: str
    tenant_id: str
    status: str
    data: dict[str, JsonValue]

    @classmethod
    def of(cls, noted: NotedEvent) -> Self | None:
        """The alert about an event; None for an event that is no occasion."""
        kind = _KINDS.get(noted.event)
        if kind is None or (kind is AlertKind.PAUSED and not _lacks_credit(noted.data)):
            return None
        return cls(
            id=f"event-{noted.seq}",
            kind=kind,
            event=noted.event,
            at=noted.at,
            job_id=noted.job_id,
            name=noted.name,
            job_kind=noted.job_kind,
            backend=noted.backend,
            tenant_id=noted.tenant_id,
            status=noted.status,
            data=noted.data,
        )


def event_names(kinds: frozenset[AlertKind]) -> tuple[str, ...]:
    """The names of the events that alerts of these kinds are made from."""
    return tuple(sorted(name for name, kind in _KINDS.items() if kind in kinds))


def _lacks_credit(data: Mapping[str, Any]) -> bool:
    failure = data.get("failure")
    return isinstance(failure, Mapping) and failure.get("code") == OutOfCredit.code
