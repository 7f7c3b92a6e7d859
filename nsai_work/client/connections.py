"""Connections of a submitting process: one store per database and one publisher per broker, opened on first use.

A forked child opens its own: a connection that is used by two processes gets garbled.
"""

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from crucible.runtime.forks import reset_after_fork, retain_inherited
from nsai_work.settings import Settings

if TYPE_CHECKING:
    from nsai_work.dispatch.debounce import DebouncedPublisher
    from nsai_work.dispatch.publisher import Publisher
    from nsai_work.store import Store, WakeUp

T = TypeVar("T")

_lock = threading.Lock()
_connections: dict[tuple[str, str], Any] = {}


def job_store(settings: Settings) -> "Store":
    """Return this process's store for the database of the settings.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    return _get_or_open("store", settings.database_url, lambda: open_job_store(settings))


def open_job_store(settings: Settings) -> "Store":
    """Open a store that belongs to the caller, who closes it. Its schema is migrated if the settings allow that."""
    from nsai_work.store import open_store

    if settings.database_url.startswith("sqlite"):
        settings.make_home()
    return open_store(settings.database_url, migrate=settings.migrate)


def publisher(settings: Settings) -> "Publisher":
    """Return this process's publisher for the broker of the settings."""
    from nsai_work.dispatch.publisher import Publisher

    return _get_or_open("publisher", _broker(settings), lambda: Publisher(settings))


def send_wake_ups(settings: Settings, wake_ups: "Sequence[WakeUp]") -> None:
    """Publish wake-ups, debounced if the store notifies workers by itself. A failure to publish is not raised."""
    from nsai_work.dispatch.publisher import enough_wake_ups

    if not wake_ups:
        return
    if job_store(settings).sends_notifications:
        _debounced_publisher(settings).send(enough_wake_ups(wake_ups))
    else:
        publisher(settings).publish(enough_wake_ups(wake_ups))


def close_connections() -> None:
    """Close all connections of this process. They are opened again on the next use."""
    with _lock:
        while _connections:
            _connections.popitem()[1].close()


def _debounced_publisher(settings: Settings) -> "DebouncedPublisher":
    from nsai_work.dispatch.debounce import DebouncedPublisher
    from nsai_work.dispatch.publisher import Publisher

    return _get_or_open("debounced publisher", _broker(settings), lambda: DebouncedPublisher(Publisher(settings)))


def _broker(settings: Settings) -> str:
    return f"{settings.broker_url} {settings.queue_prefix}"


def _get_or_open(kind: str, address: str, open_connection: Callable[[], T]) -> T:
    reset_after_fork(_reset)
    key = (kind, address)
    with _lock:
        if key not in _connections:
            _connections[key] = open_connection()
        connection: T = _connections[key]
        return connection


def _reset() -> None:
    global _lock, _connections
    retain_inherited(_connections)
    _lock, _connections = threading.Lock(), {}
