"""A per-thread database connection that also LISTENs for notifications of ready jobs, and whose session is the
worker's presence (PostgreSQL)."""

import contextlib
import os
import selectors
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from nsai_work.store.engine.database import Database, Tx
from nsai_work.store.engine.notify import CHANNEL
from nsai_work.store.presence import hold_session, release_session
from nsai_work.telemetry.logs import get_logger

log = get_logger(__name__)

RECONNECT_EVERY_S: Final = 0.2
"""The time between two attempts to reconnect a session that is a worker's presence."""


@dataclass
class ListeningConnection:
    """A connection for one thread; only ``wake`` may be called from others. On SQLite it keeps no connection open
    and receives no notifications.

    ``notified`` is set when a notification arrives, and whenever one may have been missed. The user resets it.

    With a ``presence_key`` the session holds that advisory lock, and a broken connection is replaced at once.
    ``connected_at`` is when the present session was first used, ``confirmed_at`` a time at which it certainly
    existed: just before the last transaction that succeeded on it began. Both are monotonic, None without presence.
    """

    database: Database
    presence_key: int | None = None
    notified: bool = False
    connected_at: float | None = None
    confirmed_at: float | None = None
    _present_on: Any = None
    _connection: Connection | None = None
    _listening: Any = None
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _pipe: tuple[int, int] = field(default_factory=os.pipe)
    _pipe_lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: bool = False

    def __post_init__(self) -> None:
        for end in self._pipe:
            os.set_blocking(end, False)
        self._selector.register(self._pipe[0], selectors.EVENT_READ)

    @contextmanager
    def transaction(self, *, autocommit: bool = False) -> Iterator[Tx]:
        """As ``Database.transaction``; with ``autocommit``, as ``Database.autocommit``."""
        if not self.database.postgres:
            with self.database.transaction() as tx:
                yield tx
            return
        connection = self._open().execution_options(nsai_autocommit=autocommit)
        sent_at = self.database.clock.monotonic()
        with connection.begin():
            self._hold_presence(connection)
            yield self.database.begun(connection)
        if self._present_on is not None:
            self.confirmed_at = sent_at

    def wait(self) -> None:
        """Block until a notification arrives or ``wake`` is called."""
        connection = self._connection
        if connection is not None and self.database.sends_notifications and self._listen(connection):
            return
        for key, _ in self._selector.select(RECONNECT_EVERY_S if self._is_cut_off else None):
            if key.fd == self._pipe[0]:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._pipe[0], 4096)
            elif connection is not None:
                self._receive(connection)
        if self._is_cut_off:
            self._reconnect()

    def wake(self) -> None:
        """Make the current or next ``wait`` return. Thread-safe; without effect once closed."""
        # the lock: after a close, the number of the pipe may be that of another file
        with self._pipe_lock, contextlib.suppress(BlockingIOError):
            if not self._closed:
                os.write(self._pipe[1], b"w")

    def close(self) -> None:
        """Close the connection, the selector and the pipe."""
        self._stop_listening()
        if self._connection is not None:
            self._release_presence(self._connection)
            self._connection.close()
        self._selector.close()
        with self._pipe_lock:
            self._closed = True
            for end in self._pipe:
                os.close(end)

    def _open(self) -> Connection:
        engine = self.database.engine()
        if self._connection is None:
            self._connection = engine.connect()
        return self._connection

    def _hold_presence(self, connection: Connection) -> None:
        """Acquire the lock on the driver's connection, which is a new one after a failure."""
        if self.presence_key is None:
            return
        driver = connection.connection.driver_connection
        if driver is self._present_on:
            return
        if self.database.has_sessions:
            connection.exec_driver_sql(hold_session(self.presence_key))
            self._present_on, self.connected_at = driver, self.database.clock.monotonic()
        else:
            self._present_on = self.connected_at = self.confirmed_at = None

    def _release_presence(self, connection: Connection) -> None:
        # the pool may keep the connection
        if self._present_on is not None and self.presence_key is not None and not connection.invalidated:
            with contextlib.suppress(SQLAlchemyError), connection.begin():
                connection.exec_driver_sql(release_session(self.presence_key))
        self._present_on = self.connected_at = self.confirmed_at = None

    @property
    def _is_cut_off(self) -> bool:
        """The session that is a worker's presence has ended, and no operation has replaced it yet."""
        return self._present_on is not None and self._connection is not None and self._connection.invalidated

    def _reconnect(self) -> None:
        with contextlib.suppress(SQLAlchemyError), self.transaction(autocommit=True):
            log.info("store.reconnected", database=self.database.where)

    def _listen(self, connection: Connection) -> bool:
        """LISTEN on the driver's connection, which is a new one after a failure.

        Returns whether listening has just started, so that a notification may have been missed. After an error
        there is no listening until the connection is used again.
        """
        if connection.invalidated:
            # the next operation reconnects, and reports an error if it cannot
            self._stop_listening()
            return False
        try:
            driver: Any = connection.connection.driver_connection
            if driver is self._listening:
                return False
            self._stop_listening()
            driver.add_notify_handler(self._on_notification)
            driver.execute(f"LISTEN {CHANNEL}")
            self._selector.register(driver.fileno(), selectors.EVENT_READ)
        except Exception as error:  # any error of the driver only costs latency
            self._invalidate(connection, error)
            return False
        self._listening, self.notified = driver, True
        return True

    def _receive(self, connection: Connection) -> None:
        try:
            self._listening.pgconn.consume_input()
            while self._listening.pgconn.notifies() is not None:
                self.notified = True
        except Exception as error:  # the server has closed the connection
            self._invalidate(connection, error)

    def _on_notification(self, _notification: object) -> None:
        self.notified = True

    def _invalidate(self, connection: Connection, error: Exception) -> None:
        log.debug("store.connection_lost", error=type(error).__name__)
        self._stop_listening()
        connection.invalidate()

    def _stop_listening(self) -> None:
        for key in list(self._selector.get_map().values()):
            if key.fd != self._pipe[0]:
                self._selector.unregister(key.fd)
        self._listening = None
