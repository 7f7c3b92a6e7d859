"""The database of a store: its engine, transactions and retries."""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    Select,
    String,
    any_,
    bindparam,
    false,
    func,
    literal,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import DBAPIError, IntegrityError

from crucible.runtime.forks import reset_after_fork, retain_inherited
from nsai_work.clock import Clock, SystemClock
from nsai_work.store.engine.columns import Json
from nsai_work.store.engine.database_clock import DatabaseClock
from nsai_work.store.engine.db_errors import DbErrorKind, classify, to_work_error
from nsai_work.store.engine.engines import NOTIFICATIONS, SQLITE_BUSY_S, SqliteFile, is_on, make_engine
from nsai_work.telemetry.logs import get_logger

log = get_logger(__name__)

T = TypeVar("T")
P = ParamSpec("P")

CONFLICT_TRIES: Final = 8
CONFLICT_S: Final = SQLITE_BUSY_S
"""The time for which an operation is tried again on conflicts. With SQLite one try may take as long: then another
process holds the write lock, and waiting eight times for it would only hide that."""
PREPARED: Final[dict[str, Any]] = {"nsai_prepared": True}
"""Execution options of a statement that PostgreSQL prepares on the connection. Only for statements with constant
text whose best plan does not depend on their parameters."""


@dataclass(frozen=True, slots=True)
class Tx:
    """An open transaction. ``now`` is the database's wall-clock time at its begin, used for all that it writes."""

    connection: Connection
    clock: Clock
    now: datetime

    @property
    def postgres(self) -> bool:
        """The database is PostgreSQL, which locks rows. SQLite has a single writer instead."""
        return self.connection.dialect.name == "postgresql"

    def one_of(self, column: ColumnElement[T], values: Iterable[T]) -> ColumnElement[bool]:
        """The condition that the column equals one of the values, of any number: they are one parameter."""
        if self.postgres:
            return column == any_(literal(list(values), array_of(column)))
        return column.in_(_elements(literal(list(values), Json())))

    def one_of_rows(
        self, columns: Sequence[ColumnElement[Any]], rows: Collection[Sequence[Any]]
    ) -> ColumnElement[bool]:
        """The condition that the columns together equal one of the rows, of any number. Beside an OR, PostgreSQL
        uses no index for it."""
        if not rows:
            return false()
        values = [list(each) for each in zip(*rows, strict=True)]
        if self.postgres:
            arrays = [literal(each, array_of(column)) for column, each in zip(columns, values, strict=True)]
            names = [column.name for column in columns]
            return tuple_(*columns).in_(select(func.unnest(*arrays).table_valued(*names).render_derived()))
        each = func.json_each(literal([list(row) for row in rows], Json())).table_valued("value")
        parts = (func.json_extract(each.c.value, f"$[{number}]") for number in range(len(columns)))
        return tuple_(*columns).in_(select(*parts))


def one_of_parameter(column: ColumnElement[Any], parameter: str, *, postgres: bool) -> ColumnElement[bool]:
    """As ``Tx.one_of``, for a cached statement: each execution passes the values as a list."""
    if postgres:
        return column == any_(bindparam(parameter, type_=array_of(column)))
    return column.in_(_elements(bindparam(parameter, type_=Json())))


def _elements(values: ColumnElement[Any]) -> Select[Any]:
    """The elements of a JSON array (SQLite, whose statements have a limited number of parameters)."""
    return select(func.json_each(values).table_valued("value").c.value)


def array_of(column: ColumnElement[Any]) -> "ARRAY[Any]":
    """The array type for a column's values."""
    # a cast to VARCHAR(10) would truncate a longer text, which the column itself refuses
    return ARRAY(String() if isinstance(column.type, String) else column.type)


@dataclass
class Database:
    """Connections to one database. Thread-safe; a forked child opens connections of its own.

    First use creates or migrates the tables; with ``migrate=False`` it only checks their version. The time is that
    of PostgreSQL's server, or without ``server_time``, as on SQLite, of ``clock``.
    """

    url: URL
    clock: Clock = field(default_factory=SystemClock)
    migrate: bool = True
    pool_size: int = 5
    server_time: bool = True
    _engine: Engine | None = None
    _ready: bool = False
    _pooled: bool = False
    _spare: Connection | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _server_clock: DatabaseClock = field(init=False)
    _file: SqliteFile | None = None

    def __post_init__(self) -> None:
        reset_after_fork(self._reset)
        self._server_clock = DatabaseClock(self.clock)

    def _reset(self) -> None:
        # the sockets belong to the parent
        retain_inherited(self._engine, self._spare)
        self._engine = self._spare = None
        self._lock = threading.Lock()

    @property
    def where(self) -> str:
        """The address without its password."""
        return self.url.render_as_string(hide_password=True)

    def close(self) -> None:
        """Close the idle connections, and those in use when they are returned."""
        with self._lock:
            if self._engine is not None:
                if self._spare is not None:
                    self._spare.close()
                self._engine.dispose()
            self._engine = self._spare = self._file = None
            self._ready = False

    @property
    def postgres(self) -> bool:
        """The database is PostgreSQL."""
        return self.url.get_backend_name() == "postgresql"

    @property
    def sends_notifications(self) -> bool:
        """Commits that make jobs ready notify listening connections."""
        return self.postgres and is_on(self.url, NOTIFICATIONS, pooled=self._pooled)

    @property
    def has_sessions(self) -> bool:
        """Each connection keeps a session of its own at a PostgreSQL server, as far as is known: it does not if it
        leads to a pooler, or if the address has ``notices=off``."""
        return self.sends_notifications and not self._pooled

    @property
    def pooled(self) -> bool:
        """Connections lead to a pooler, as far as any has been opened."""
        return self._pooled

    def _found_pooler(self) -> None:
        if not self._pooled:
            log.info("store.pooler_found", database=self.where)
        self._pooled = True

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[Tx]:
        """A transaction, committed at the end of the block. Driver errors are raised unchanged.

        Raises:
            StoreGone: the SQLite file was deleted or replaced.
        """
        engine = self.engine()
        self.require_file()
        with engine.connect().execution_options(nsai_write=write) as connection, connection.begin():
            yield self.begun(connection)

    def begun(self, connection: Connection) -> Tx:
        """The transaction that has just begun on a connection."""
        measured = self.postgres and self.server_time
        now = self._server_clock.now(connection) if measured else self.clock.now()
        return Tx(connection, self.clock, now)

    @contextmanager
    def autocommit(self) -> Iterator[Tx]:
        """A transaction of exactly one statement, without BEGIN and COMMIT (PostgreSQL). Errors as above."""
        connection = self._autocommit_connection()
        try:
            with connection.begin():
                yield self.begun(connection)
        except BaseException:
            connection.close()
            raise
        with self._lock:
            kept = self._spare is None and self._engine is connection.engine
            if kept:
                self._spare = connection
        if not kept:
            connection.close()

    def _autocommit_connection(self) -> Connection:
        # a spare connection stays checked out: the pool's checkout and reset would add latency
        engine = self.engine()
        with self._lock:
            connection, self._spare = self._spare, None
        return engine.connect().execution_options(nsai_autocommit=True) if connection is None else connection

    def run(
        self,
        operation: Callable[Concatenate[Tx, P], T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run an operation in a transaction of its own; on a conflict it runs again.

        Raises:
            StoreUnavailable: the database does not answer, or the conflict persists.
            StoreFull: no disk space; nothing was written.
        """
        return self.retrying(lambda: self._once(True, operation, *args, **kwargs))

    def read(self, operation: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a read-only operation. Raises as ``run``."""
        return self.retrying(lambda: self._once(False, operation, *args, **kwargs))

    def _once(
        self, write: bool, operation: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        with self.transaction(write=write) as tx:
            return operation(tx, *args, **kwargs)

    def retrying(self, attempt: Callable[[], T]) -> T:
        """Call ``attempt``, again on conflicts, and once more on a new connection if the old one was dead."""
        conflicts = unavailable = 0
        began = self.clock.monotonic()
        while True:
            try:
                return attempt()
            except DBAPIError as error:
                kind = classify(error)
                conflicts += kind is DbErrorKind.CONFLICT
                if kind is DbErrorKind.BUG or (conflicts == CONFLICT_TRIES and isinstance(error, IntegrityError)):
                    raise
                unavailable += kind is DbErrorKind.UNAVAILABLE
                stale = unavailable == 1 and error.connection_invalidated
                late = self.clock.monotonic() - began >= CONFLICT_S
                if kind is DbErrorKind.CONFLICT and conflicts < CONFLICT_TRIES and not late:
                    time.sleep(0.002 * 2**conflicts * (0.5 + (conflicts * 0.37) % 0.5))
                elif not stale:
                    raise to_work_error(kind, error, self.where) from error

    def require_file(self) -> None:
        """Raise StoreGone if this is an SQLite file that was deleted or replaced since it was opened."""
        if self._file is not None:
            self._file.require()

    def engine(self) -> Engine:
        """The engine. First use creates it and migrates the tables. Raises as ``upgrade``."""
        engine = self._engine
        if engine is not None and self._ready:
            return engine
        with self._lock:
            if self._engine is None:
                self._engine = make_engine(self.url, self.pool_size, on_pooler=self._found_pooler)
            if not self._ready:
                from nsai_work.store.engine.migrate import check, upgrade

                (upgrade if self.migrate else check)(self._engine)
                self._ready = True
                if not self.postgres:
                    self._file = SqliteFile.of_engine(self._engine)
            return self._engine
