"""The database behind a store: its engine, its transactions, and what is done when it fails."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    String,
    any_,
    bindparam,
    create_engine,
    event,
    literal,
    make_url,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError

from crucible.errors import InvalidRequest
from nsai_work.clock import Clock, SystemClock
from nsai_work.store.faults import Fault, as_work_error, classify

T = TypeVar("T")
P = ParamSpec("P")

CONFLICT_TRIES: Final = 8
PREPARED: Final[dict[str, Any]] = {"nsai_prepared": True}
"""Execution options of a statement that PostgreSQL is to keep on the connection, parsed and planned. Only for those
that are the same text each time and are best answered by the same plan whatever their values are."""

PREPARED_PARAMETER: Final = "prepared"
"""``?prepared=off`` in a PostgreSQL address: keep no statements. For poolers that give each transaction another
connection of the server and do not know of prepared statements (PgBouncer before 1.21 in transaction mode)."""

_ALLOWED: Final = "sqlite:///PATH or postgresql+psycopg://USER@HOST:PORT/NAME"


@dataclass(frozen=True, slots=True)
class Tx:
    """One open transaction. ``now`` is the wall clock when it began, the same for all it writes."""

    connection: Connection
    clock: Clock
    now: datetime

    @property
    def postgres(self) -> bool:
        """Whether rows can be locked one by one; SQLite has one writer at a time instead."""
        return self.connection.dialect.name == "postgresql"

    def one_of(self, column: ColumnElement[T], values: Iterable[T]) -> ColumnElement[bool]:
        """Whether the column has one of the values. On PostgreSQL they are one parameter, however many."""
        if self.postgres:
            return column == any_(literal(list(values), array_of(column)))
        return column.in_(list(values))


def one_of_these(column: ColumnElement[Any], parameter: str, *, postgres: bool) -> ColumnElement[bool]:
    """As ``Tx.one_of``, for a statement that is kept: the values come as a list with each execution."""
    if postgres:
        return column == any_(bindparam(parameter, type_=array_of(column)))
    return column.in_(bindparam(parameter, expanding=True))


def array_of(column: ColumnElement[Any]) -> "ARRAY[Any]":
    """The type of an array of a column's values."""
    # a cast to VARCHAR(10) would cut a longer text off, where the column itself refuses it
    return ARRAY(String() if isinstance(column.type, String) else column.type)


@dataclass
class Database:
    """Connections to one database, usable from any thread and after a fork.

    At first use the tables are made or brought up to date; if ``migrate`` is false they are only looked at.
    """

    url: URL
    clock: Clock = field(default_factory=SystemClock)
    migrate: bool = True
    pool_size: int = 5
    _engine: Engine | None = None
    _pid: int = 0
    _ready: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def where(self) -> str:
        """The address without its password."""
        return self.url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            if self._engine is not None and self._pid == os.getpid():
                self._engine.dispose()
            self._engine = None

    @property
    def postgres(self) -> bool:
        """Whether it is PostgreSQL."""
        return self.url.get_backend_name() == "postgresql"

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[Tx]:
        """One transaction, committed at the end of the block. Database errors come out untranslated."""
        engine = self.engine()
        with engine.connect().execution_options(nsai_write=write) as connection, connection.begin():
            yield Tx(connection, self.clock, self.clock.now())

    @contextmanager
    def single(self) -> Iterator[Tx]:
        """A transaction of one statement, which PostgreSQL begins and commits with it; errors as above."""
        with self.engine().connect().execution_options(nsai_single=True) as connection, connection.begin():
            yield Tx(connection, self.clock, self.clock.now())

    def run(
        self,
        operation: Callable[Concatenate[Tx, P], T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run an operation in a transaction of its own; one that met another transaction is run again.

        Raises:
            StoreUnavailable: the database does not answer, or the conflict did not go away.
            StoreFull: no space; nothing was written.
        """
        return self.retrying(lambda: self._once(True, operation, *args, **kwargs))

    def read(self, operation: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an operation that only reads. Raises as ``run``."""
        return self.retrying(lambda: self._once(False, operation, *args, **kwargs))

    def _once(
        self, write: bool, operation: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        with self.transaction(write=write) as tx:
            return operation(tx, *args, **kwargs)

    def retrying(self, attempt: Callable[[], T]) -> T:
        """Try again on conflicts, and once over a fresh connection when the old one turns out dead."""
        conflicts = aways = 0
        while True:
            try:
                return attempt()
            except DBAPIError as error:
                fault = classify(error)
                conflicts += fault is Fault.CONFLICT
                if fault is Fault.BUG or (conflicts == CONFLICT_TRIES and isinstance(error, IntegrityError)):
                    raise
                aways += fault is Fault.AWAY
                stale = aways == 1 and error.connection_invalidated
                if fault is Fault.CONFLICT and conflicts < CONFLICT_TRIES:
                    time.sleep(0.002 * 2**conflicts * (0.5 + (conflicts * 0.37) % 0.5))
                elif not stale:
                    raise as_work_error(fault, error, self.where) from error

    def engine(self) -> Engine:
        """The engine; at first use it is made and its tables are brought up to date. Raises as ``upgrade``."""
        engine = self._engine
        if engine is not None and self._pid == os.getpid() and self._ready:
            return engine
        with self._lock:
            if self._engine is None or self._pid != os.getpid():
                if self._engine is not None:
                    # made before a fork: the sockets belong to the parent, so forget them without closing
                    self._engine.dispose(close=False)
                self._engine, self._pid = make_engine(self.url, self.pool_size), os.getpid()
            if not self._ready:
                from nsai_work.store.migrate import check, upgrade

                (upgrade if self.migrate else check)(self._engine)
                self._ready = True
            return self._engine


def parse_url(url: str | URL) -> URL:
    """A database address that the store can use.

    Raises:
        InvalidRequest: it is none, or of a database that is not supported. A password in it is not shown.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise InvalidRequest.of("database_url", "(not shown: it may hold a password)", f"use {_ALLOWED}") from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise InvalidRequest.of("database_url", parsed.drivername, f"use {_ALLOWED}")
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise InvalidRequest.of(
            "database_url", parsed.database, "give the path of a file: other processes must find it"
        )
    prepared = parsed.query.get(PREPARED_PARAMETER, "on")
    if prepared not in ("on", "off"):
        raise InvalidRequest.of(f"database_url: {PREPARED_PARAMETER}", str(prepared), "it is on or off")
    return parsed


def make_engine(url: URL, pool_size: int = 5) -> Engine:
    """An engine set up for the store. Connects to nothing yet."""
    prepared = url.query.get(PREPARED_PARAMETER, "on") == "on"
    url = url.difference_update_query([PREPARED_PARAMETER])
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, pool_size)
    connect_args: dict[str, Any] = {
        # nothing by itself, however often it is run: a plan made for any argument may read a million rows where
        # the actual one needs a single probe
        "prepare_threshold": 2**31 if prepared else None,
        "application_name": "nsai-work",
        "connect_timeout": 5,
        "keepalives_idle": 10,
        "tcp_user_timeout": 15_000,
    }
    connect_args = {key: value for key, value in connect_args.items() if key not in url.query}
    engine = create_engine(
        url, pool_size=pool_size, max_overflow=10, pool_timeout=10, hide_parameters=True, connect_args=connect_args
    )
    event.listen(engine, "connect", _prepare_postgres)
    event.listen(engine, "begin", _begin_postgres)
    event.listen(engine, "do_execute", _execute_prepared)
    return engine


def _prepare_postgres(connection: Any, _record: object) -> None:
    from psycopg.types.array import ListBinaryDumper

    # as text, every quote in every JSON value of an array would be escaped by itself
    connection.adapters.register_dumper(list, ListBinaryDumper)
    # the driver must not open transactions by itself: _begin_postgres does
    connection.autocommit = True


def _begin_postgres(connection: Connection) -> None:
    if not connection.get_execution_options().get("nsai_single"):
        connection.exec_driver_sql("BEGIN")


def _execute_prepared(cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
    if context is None or not context.execution_options.get("nsai_prepared"):
        return False
    cursor.execute(statement, parameters, prepare=True)
    return True


def _sqlite_engine(url: URL, pool_size: int) -> Engine:
    assert url.database is not None
    folder = Path(url.database).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest.of("database_url", str(folder), f"cannot create it: {error.strerror}") from error
    engine = create_engine(
        url, pool_size=pool_size, max_overflow=10, hide_parameters=True, connect_args={"timeout": 10.0}
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # the driver must not open transactions by itself: _begin_sqlite does
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout = 10000")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE takes the write lock at the start: a transaction that read first and then wants to write would
    # fail at once, without waiting, if another had written in between
    write = connection.get_execution_options().get("nsai_write", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
