"""The database behind a store: its engine, its transactions, and what is done when it fails."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    String,
    any_,
    bindparam,
    literal,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import DBAPIError, IntegrityError

from nsai_work.clock import Clock, SystemClock
from nsai_work.store.engine.db_errors import DbErrorKind, as_work_error, classify
from nsai_work.store.engine.engines import NOTICES, is_on, make_engine

T = TypeVar("T")
P = ParamSpec("P")

CONFLICT_TRIES: Final = 8
PREPARED: Final[dict[str, Any]] = {"nsai_prepared": True}
"""Execution options of a statement that PostgreSQL is to keep on the connection, parsed and planned. Only for those
that are the same text each time and are best answered by the same plan whatever their values are."""


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
    _spare: Connection | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def where(self) -> str:
        """The address without its password."""
        return self.url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            if self._engine is not None and self._pid == os.getpid():
                if self._spare is not None:
                    self._spare.close()
                self._engine.dispose()
            self._engine = self._spare = None

    @property
    def postgres(self) -> bool:
        """Whether it is PostgreSQL."""
        return self.url.get_backend_name() == "postgresql"

    @property
    def sends_notifications(self) -> bool:
        """Whether it tells those who listen when a job has become ready."""
        return self.postgres and is_on(self.url, NOTICES)

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[Tx]:
        """One transaction, committed at the end of the block. Database errors come out untranslated."""
        engine = self.engine()
        with engine.connect().execution_options(nsai_write=write) as connection, connection.begin():
            yield Tx(connection, self.clock, self.clock.now())

    @contextmanager
    def single(self) -> Iterator[Tx]:
        """A transaction of one statement, which PostgreSQL begins and commits with it; errors as above."""
        connection = self._single_connection()
        try:
            with connection.begin():
                yield Tx(connection, self.clock, self.clock.now())
        except BaseException:
            connection.close()
            raise
        with self._lock:
            kept = self._spare is None and self._engine is connection.engine
            if kept:
                self._spare = connection
        if not kept:
            connection.close()

    def _single_connection(self) -> Connection:
        # one stays out of the pool, which takes its time to hand it out and to clean it up
        engine = self.engine()
        with self._lock:
            connection, self._spare = self._spare, None
        return engine.connect().execution_options(nsai_single=True) if connection is None else connection

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
                conflicts += fault is DbErrorKind.CONFLICT
                if fault is DbErrorKind.BUG or (conflicts == CONFLICT_TRIES and isinstance(error, IntegrityError)):
                    raise
                aways += fault is DbErrorKind.AWAY
                stale = aways == 1 and error.connection_invalidated
                if fault is DbErrorKind.CONFLICT and conflicts < CONFLICT_TRIES:
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
                self._spare = None
                self._engine, self._pid = make_engine(self.url, self.pool_size), os.getpid()
            if not self._ready:
                from nsai_work.store.engine.migrate import check, upgrade

                (upgrade if self.migrate else check)(self._engine)
                self._ready = True
            return self._engine
