"""A per-thread database connection that also LISTENs for notifications of ready jobs (PostgreSQL)."""

import contextlib
import os
import selectors
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from nsai_work.logs import get_logger
from nsai_work.store.engine.database import Database, Tx
from nsai_work.store.engine.notify import CHANNEL

log = get_logger(__name__)


@dataclass
class ListeningConnection:
    """A connection for one thread; only ``wake`` may be called from others. On SQLite it keeps no connection open
    and receives no notifications.

    ``notified`` is set when a notification arrives, and whenever one may have been missed. The user resets it.
    """

    database: Database
    notified: bool = False
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
        with connection.begin():
            yield self.database.begun(connection)

    def wait(self) -> None:
        """Block until a notification arrives or ``wake`` is called."""
        connection = self._connection
        if connection is not None and self.database.sends_notifications and self._listen(connection):
            return
        for key, _ in self._selector.select():
            if key.fd == self._pipe[0]:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._pipe[0], 4096)
            elif connection is not None:
                self._receive(connection)

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
