"""A thread's own way to the database: the connection it keeps, on which it also hears notices."""

import contextlib
import os
import selectors
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
    """To be used by one thread, but for ``wake``. On SQLite it keeps nothing, and there are no notices.

    ``told`` becomes true when a notice has come, and whenever one may have been missed; the user sets it back.
    """

    database: Database
    told: bool = False
    _connection: Connection | None = None
    _listening: Any = None
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _pipe: tuple[int, int] = field(default_factory=os.pipe)

    def __post_init__(self) -> None:
        for end in self._pipe:
            os.set_blocking(end, False)
        self._selector.register(self._pipe[0], selectors.EVENT_READ)

    @contextmanager
    def transaction(self, *, single: bool = False) -> Iterator[Tx]:
        """As ``Database.transaction``; ``single`` as ``Database.single``."""
        if not self.database.postgres:
            with self.database.transaction() as tx:
                yield tx
            return
        connection = self._open().execution_options(nsai_single=single)
        with connection.begin():
            yield Tx(connection, self.database.clock, self.database.clock.now())

    def wait(self) -> None:
        """Return when a notice comes, or when ``wake`` is called."""
        connection = self._connection
        if connection is not None and self.database.sends_notifications and self._listen(connection):
            return
        for key, _ in self._selector.select():
            if key.fd == self._pipe[0]:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._pipe[0], 4096)
            elif connection is not None:
                self._hear(connection)

    def wake(self) -> None:
        """Make ``wait`` return, now or when it is called next. From any thread."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._pipe[1], b"w")

    def close(self) -> None:
        """Let go of everything."""
        self._deafen()
        if self._connection is not None:
            self._connection.close()
        self._selector.close()
        for end in self._pipe:
            os.close(end)

    def _open(self) -> Connection:
        engine = self.database.engine()
        if self._connection is None:
            self._connection = engine.connect()
        return self._connection

    def _listen(self, connection: Connection) -> bool:
        """Listen on the driver's connection, which is another one after each failure; whether that is new, and so a
        notice may have been missed. What fails here leaves the line deaf until it is used again."""
        if connection.invalidated:
            # the next operation connects again, and is told if that fails
            self._deafen()
            return False
        try:
            driver: Any = connection.connection.driver_connection
            if driver is self._listening:
                return False
            self._deafen()
            driver.add_notify_handler(self._on_notice)
            driver.execute(f"LISTEN {CHANNEL}")
            self._selector.register(driver.fileno(), selectors.EVENT_READ)
        except Exception as error:  # whatever a driver raises costs latency only
            self._break_off(connection, error)
            return False
        self._listening, self.told = driver, True
        return True

    def _hear(self, connection: Connection) -> None:
        try:
            self._listening.pgconn.consume_input()
            while self._listening.pgconn.notifies() is not None:
                self.told = True
        except Exception as error:  # the server has closed the connection
            self._break_off(connection, error)

    def _on_notice(self, _notice: object) -> None:
        self.told = True

    def _break_off(self, connection: Connection, error: Exception) -> None:
        log.debug("store.line_broken", error=type(error).__name__)
        self._deafen()
        connection.invalidate()

    def _deafen(self) -> None:
        """Listen no more."""
        for key in list(self._selector.get_map().values()):
            if key.fd != self._pipe[0]:
                self._selector.unregister(key.fd)
        self._listening = None
