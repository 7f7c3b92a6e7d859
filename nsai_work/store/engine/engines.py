"""Database addresses, and SQLAlchemy engines configured for the store."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from crucible.errors import InvalidRequest
from nsai_work.errors import StoreGone
from nsai_work.extras import missing_extra
from nsai_work.files.home import make_private_file, make_private_folder

PREPARED_STATEMENTS: Final = "prepared"
"""``?prepared=on`` or ``off`` in a PostgreSQL address: whether statements are prepared. By default they are unless
there is a pooler, since many assign a server connection per transaction and do not track prepared statements."""

NOTIFICATIONS: Final = "notices"
"""``?notices=on`` or ``off`` in a PostgreSQL address: whether to LISTEN. By default as for prepared statements:
poolers in transaction mode do not deliver notifications."""

SQLITE_BUSY_S: Final = 10
"""The seconds for which a transaction waits for the write lock of an SQLite database."""

_ALLOWED: Final = "sqlite:///PATH or postgresql+psycopg://USER@HOST:PORT/NAME"


def parse_url(url: str | URL) -> URL:
    """Parse and check a database address.

    Raises:
        InvalidRequest: it is malformed, or the database is not supported. The message has no password.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise InvalidRequest.of("database_url", "(not shown: it may hold a password)", f"use {_ALLOWED}") from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise InvalidRequest.of("database_url", parsed.drivername, f"use {_ALLOWED}")
    if missing := missing_extra(parsed.drivername):
        raise InvalidRequest(f"database_url: {missing}", details={"field": "database_url"})
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise InvalidRequest.of(
            "database_url", parsed.database, "give the path of a file: other processes must find it"
        )
    for name in (PREPARED_STATEMENTS, NOTIFICATIONS):
        if (value := parsed.query.get(name, "on")) not in ("on", "off"):
            raise InvalidRequest.of(f"database_url: {name}", str(value), "it is on or off")
    return parsed


def is_on(url: URL, name: str, *, pooled: bool) -> bool:
    """Check whether a parameter of the store in an address is on. ``pooled``: connections lead to a pooler."""
    return url.query.get(name, "off" if pooled else "on") == "on"


class ClosingPool(QueuePool):
    """A connection pool that also closes the connections that are returned to it after its disposal.

    SQLAlchemy's own keeps them: a connection that another thread uses while the engine is disposed would stay open
    until the garbage collector finds the pool.
    """

    # among SQLAlchemy's loggers, of which a log at "info" has warnings alone
    _sqla_logger_namespace = "sqlalchemy.pool.ClosingPool"
    _disposed = False

    def dispose(self) -> None:
        """Close the idle connections, and from now on each connection when it is returned."""
        self._disposed = True
        super().dispose()

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        super()._do_return_conn(record)
        # after it: a disposal that runs at the same time either finds the connection or has set the mark
        if self._disposed:
            super().dispose()


_FROZEN_MS: Final = 30_000
"""The longest wait of a transaction for its process: one that is frozen in the middle keeps its locks."""


def make_engine(url: URL, pool_size: int = 5, *, on_pooler: Callable[[], None] = lambda: None) -> Engine:
    """An engine configured for the store, not connected yet. ``on_pooler`` is called when a connection turns out to
    lead to a pooler."""
    address = url
    url = url.difference_update_query([PREPARED_STATEMENTS, NOTIFICATIONS])
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, pool_size)
    connect_args: dict[str, Any] = {
        # psycopg prepares no statement on its own: a generic plan may scan a million rows where a plan for the
        # actual parameters takes one index probe
        "prepare_threshold": 2**31,
        "application_name": "nsai-work",
        "connect_timeout": 5,
        "keepalives_idle": 10,
        "tcp_user_timeout": 15_000,
    }
    connect_args = {key: value for key, value in connect_args.items() if key not in url.query}
    engine = create_engine(
        url,
        poolclass=ClosingPool,
        pool_size=pool_size,
        max_overflow=10,
        pool_timeout=10,
        hide_parameters=True,
        connect_args=connect_args,
    )

    def prepare(connection: Any, _record: object) -> None:
        _prepare_postgres(connection)
        try:
            pooled = _is_pooled(connection)
            if not pooled:  # a pooler would give the setting to others
                connection.execute(f"SET idle_in_transaction_session_timeout = {_FROZEN_MS}", prepare=False)
        except BaseException:
            # SQLAlchemy does not know the connection yet, so nobody else would close it
            connection.close()
            raise
        if pooled:
            on_pooler()
        if not is_on(address, PREPARED_STATEMENTS, pooled=pooled):
            connection.prepare_threshold = None

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", _begin_postgres)
    event.listen(engine, "do_execute", _execute_prepared)
    return engine


def _is_pooled(connection: Any) -> bool:
    """Check whether a psycopg connection leads to a pooler, such as PgBouncer. Raises the driver's errors.

    A pooler in transaction mode runs each transaction on another connection of the server, so prepared statements
    fail and LISTEN receives nothing. A pooler cannot hand out the server's process ids, by which a query is
    canceled, so it announces numbers of its own.
    """
    row = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchone()
    return bool(row[0] != connection.info.backend_pid)


def _prepare_postgres(connection: Any) -> None:
    from psycopg.types.array import ListBinaryDumper

    # the text format escapes every quote in the JSON values of an array
    connection.adapters.register_dumper(list, ListBinaryDumper)
    # _begin_postgres opens the transactions, not the driver
    connection.autocommit = True


def _begin_postgres(connection: Connection) -> None:
    if not connection.get_execution_options().get("nsai_autocommit"):
        connection.exec_driver_sql("BEGIN")


def _execute_prepared(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
    if context is None or not context.execution_options.get("nsai_prepared"):
        return False
    cursor.execute(statement, parameters, prepare=True)
    return True


def _sqlite_engine(url: URL, pool_size: int) -> Engine:
    assert url.database is not None
    file = Path(url.database)
    try:
        make_private_folder(file.parent)
        # SQLite would create it with the umask's mode; its other files take the mode of this one
        make_private_file(file)
    except OSError as error:
        raise InvalidRequest.of("database_url", str(file), f"cannot create it: {error.strerror}") from error
    engine = create_engine(
        url,
        poolclass=ClosingPool,
        pool_size=pool_size,
        max_overflow=10,
        hide_parameters=True,
        connect_args={"timeout": SQLITE_BUSY_S},
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # _begin_sqlite opens the transactions, not the driver
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(SQLITE_BUSY_S * 1000)}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE acquires the write lock at the start: a transaction that reads first and writes later fails at once,
    # without waiting, if another one has written in between
    write = connection.get_execution_options().get("nsai_write", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@dataclass(frozen=True, slots=True)
class SqliteFile:
    """The file at ``path``, as it was opened: ``identity`` is its device and inode.

    A process must not go on with a file that was deleted or replaced. SQLite does not notice: open connections
    write to the unlinked file, which nobody reads again, and new ones create an empty file.
    """

    path: str
    identity: tuple[int, int] | None

    @classmethod
    def of_engine(cls, engine: Engine) -> Self:
        """The file of an engine that has just opened it. Later connections of the engine require it."""
        assert engine.url.database is not None
        path = engine.url.database
        file = cls(path, _identity(path))

        def require(*_: Any) -> None:
            file.require()

        event.listen(engine, "do_connect", require)
        return file

    def require(self) -> None:
        """Raise StoreGone unless the path still names this file."""
        found = _identity(self.path)
        if found != self.identity:
            what = "deleted" if found is None else "replaced"
            raise StoreGone(
                f"the job store's file was {what} while this process used it: {self.path}; nothing more is written "
                "to it. Restore the file, and start the process again",
                details={"path": self.path},
            )


def _identity(path: str) -> tuple[int, int] | None:
    try:
        # before each transaction, and creating a Path takes longer than the call
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return found.st_dev, found.st_ino
