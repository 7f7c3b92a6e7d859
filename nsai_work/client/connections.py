"""What a process keeps open for each settings: one store and one publisher, made at first use.

After a fork the child makes its own; a connection shared by two processes would garble both.
"""

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from crucible.forks import reset_after_fork, retain_inherited
from nsai_work.settings import Settings

if TYPE_CHECKING:
    from nsai_work.dispatch.debounce import DebouncedPublisher
    from nsai_work.dispatch.publisher import Publisher
    from nsai_work.store import Store, WakeUp

T = TypeVar("T")

_lock = threading.Lock()
_kept: dict[tuple[str, str], Any] = {}


def job_store(settings: Settings) -> "Store":
    """The store these settings name, migrated if they allow it.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    return _keep("store", settings.database_url, lambda: open_job_store(settings))


def publisher(settings: Settings) -> "Publisher":
    """The publisher for the broker these settings name."""
    from nsai_work.dispatch.publisher import Publisher

    return _keep("publisher", _broker(settings), lambda: Publisher(settings))


def send_wake_ups(settings: Settings, wake_ups: "Sequence[WakeUp]") -> None:
    """Publish wake-ups: at once, or debounced where the store notifies workers itself. Never raises."""
    from nsai_work.dispatch.publisher import enough_wake_ups

    if not wake_ups:
        return
    if job_store(settings).sends_notifications:
        _debounced_publisher(settings).send(enough_wake_ups(wake_ups))
    else:
        publisher(settings).publish(enough_wake_ups(wake_ups))


def _debounced_publisher(settings: Settings) -> "DebouncedPublisher":
    from nsai_work.dispatch.debounce import DebouncedPublisher
    from nsai_work.dispatch.publisher import Publisher

    return _keep("debounced publisher", _broker(settings), lambda: DebouncedPublisher(Publisher(settings)))


def _broker(settings: Settings) -> str:
    return f"{settings.broker_url} {settings.queue_prefix}"


def open_job_store(settings: Settings) -> "Store":
    """A store of the caller's own, who closes it."""
    from nsai_work.clock import SystemClock
    from nsai_work.store import open_store

    if settings.database_url.startswith("sqlite"):
        settings.make_home()
    return open_store(settings.database_url, SystemClock(), migrate=settings.migrate)


def close_connections() -> None:
    """Close what this process opened. Later calls open it again."""
    with _lock:
        while _kept:
            _kept.popitem()[1].close()


def _keep(what: str, url: str, make: Callable[[], T]) -> T:
    reset_after_fork(_reset)
    key = (what, url)
    with _lock:
        if key not in _kept:
            _kept[key] = make()
        kept: T = _kept[key]
        return kept


def _reset() -> None:
    global _lock, _kept
    retain_inherited(_kept)
    _lock, _kept = threading.Lock(), {}
