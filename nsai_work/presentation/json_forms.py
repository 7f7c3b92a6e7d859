"""JSON forms of the store's records, for ``--json`` and the page's JSON twins."""

from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, JsonValue

if TYPE_CHECKING:
    from nsai_work.journal import CheckpointRecord
    from nsai_work.store.records import EventRow, Limit, LimitUse, QueueStatus, WorkerUse

ALL_MODELS: Final = "*"
SCOPES: Final = {"tenant": "tenant", "model": "credential"}
"""The store's scopes, by their names for people: a credential's limit may cover all models."""


def as_json(record: BaseModel) -> dict[str, JsonValue]:
    """Return a record as JSON data."""
    data: dict[str, JsonValue] = record.model_dump(mode="json")
    return data


def checkpoint_json(record: "CheckpointRecord") -> dict[str, JsonValue]:
    """Return a checkpoint as JSON data, with ``kept``: committed, and not deleted by the policy."""
    return {**as_json(record), "kept": record.kept}


def event_json(event: "EventRow") -> dict[str, JsonValue]:
    """Return an event as JSON data."""
    return {"seq": event.seq, "at": event.at.isoformat(), "name": event.name, "data": dict(event.data)}


def limit_labels(limit: "Limit") -> tuple[str, str, str | None]:
    """Return scope, name and model for people. The limit of a tenant has no model."""
    model = None if limit.scope == "tenant" else "all" if limit.model == ALL_MODELS else limit.model
    return SCOPES[limit.scope], limit.key, model


def limit_json(use: "LimitUse") -> dict[str, JsonValue]:
    """Return a limit with its use as JSON data."""
    limit = use.limit
    return {
        "scope": SCOPES[limit.scope],
        "key": limit.key,
        "model": limit.model,
        "max_running": limit.max_running,
        "running": use.running,
    }


def queue_json(status: "QueueStatus") -> dict[str, JsonValue]:
    """Return the state of the queue as JSON data."""
    depths: list[JsonValue] = [
        {
            "priority": str(depth.priority),
            "ready": depth.ready,
            "later": depth.later,
            "oldest_age_s": round(depth.oldest_age_s, 3),
        }
        for depth in status.depths
    ]
    waits: list[JsonValue] = [{"reason": wait.reason, "jobs": wait.jobs} for wait in status.waits]
    return {"priorities": depths, "limits": [limit_json(use) for use in status.limits], "waits": waits}


def worker_json(use: "WorkerUse") -> dict[str, JsonValue]:
    """Return a worker as JSON data."""
    worker = use.worker
    return {
        "id": worker.id,
        "alive": use.state == "alive",
        "state": use.state,
        "running": use.running,
        "host": worker.host,
        "pid": worker.pid,
        "version": worker.version,
        "backends": {**worker.backends},
        "declined": {**(worker.declined or {})},
        "priorities": None if worker.priorities is None else [*worker.priorities],
        "started_at": worker.started_at.isoformat(),
        "seen_at": worker.seen_at.isoformat(),
        "stopped_at": None if worker.stopped_at is None else worker.stopped_at.isoformat(),
    }
