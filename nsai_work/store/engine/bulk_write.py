"""Bulk writes: several INSERTs and UPDATEs in one round trip.

On PostgreSQL they are one statement, ``WITH a AS (INSERT ...), b AS (UPDATE ...) SELECT ...``, whose values are one
array per column. Its text does not depend on the number of rows, so the driver and the server parse it once. SQLite
runs in process, without round trips, and executes the writes in turn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, cast

from sqlalchemy import (
    CTE,
    ColumnElement,
    Insert,
    Select,
    Table,
    Update,
    and_,
    bindparam,
    column,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.selectable import TableValuedAlias

from crucible.errors import CrucibleError
from nsai_work.store.engine.database import PREPARED, Tx, array_of

Rows: TypeAlias = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class _Shape:
    """A write without its values. ``by`` are the key columns of an UPDATE; an INSERT has none."""

    table: Table
    columns: tuple[str, ...]
    by: tuple[str, ...] = ()
    skip_present: bool = False
    exact: bool = False


class BulkWrite:
    """Collects writes of one transaction; ``execute`` sends them.

    The writes of one collection must be independent: none reads what another writes, and no two change the same
    row. All rows of a write have the same columns.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[_Shape, Rows]] = []

    def insert(self, table: Table, rows: Rows, *, skip_present: bool = False) -> None:
        """Add an INSERT; with ``skip_present``, ON CONFLICT DO NOTHING."""
        if rows:
            self._pending.append((_Shape(table, tuple(rows[0]), skip_present=skip_present), rows))

    def update(self, table: Table, rows: Rows, *, by: tuple[str, ...], exact: bool = False) -> None:
        """Add an UPDATE. Rows hold the key columns ``by`` and the columns to set; with ``exact`` each must
        exist."""
        if rows:
            columns = tuple(name for name in rows[0] if name not in by)
            self._pending.append((_Shape(table, columns, by=by, exact=exact), rows))

    def execute(self, tx: Tx) -> None:
        """Send the collected writes.

        Raises:
            CrucibleError: rows of an exact update did not exist; the transaction must be rolled back.
        """
        pending, self._pending = self._pending, []
        if not pending:
            return
        changed = _execute_as_one(tx, pending) if tx.postgres else _execute_in_turn(tx, pending)
        for (shape, rows), count in zip(pending, changed, strict=True):
            if shape.exact and count != len(rows):
                raise CrucibleError(f"{len(rows)} rows of {shape.table.name} were to change, {count} did")


def insert_new(tx: Tx, table: Table, rows: Rows) -> None:
    """Insert rows; rows whose key exists are left unchanged."""
    bulk = BulkWrite()
    bulk.insert(table, rows, skip_present=True)
    bulk.execute(tx)


# --- PostgreSQL ---------------------------------------------------------------------------------------------


def _execute_as_one(tx: Tx, pending: Sequence[tuple[_Shape, Rows]]) -> Sequence[int]:
    values = {
        _array_name(index, name): [row[name] for row in rows]
        for index, (shape, rows) in enumerate(pending)
        for name in (*shape.by, *shape.columns)
    }
    statement = _combined_statement(tuple(shape for shape, _ in pending))
    return tuple(tx.connection.execute(statement, values).one())


@lru_cache(maxsize=256)
def _combined_statement(shapes: tuple[_Shape, ...]) -> Select[Any]:
    # cached: building it takes longer than running it
    parts = [_part(index, shape) for index, shape in enumerate(shapes)]
    counts = [
        _count(part) if shape.by else literal(0).label(part.name) for shape, part in zip(shapes, parts, strict=True)
    ]
    return cast("Select[Any]", select(*counts).add_cte(*parts).execution_options(**PREPARED))


def _count(changed: CTE) -> ColumnElement[int]:
    return select(func.count()).select_from(changed).scalar_subquery().label(changed.name)


def _part(index: int, shape: _Shape) -> CTE:
    values = _unnested(index, shape)
    table = shape.table
    if shape.by:
        matches = and_(*(table.c[name] == values.c[name] for name in shape.by))
        changed = update(table).where(matches).values({name: values.c[name] for name in shape.columns})
        return changed.returning(table.c[shape.by[0]]).cte(f"write_{index}")
    added = postgresql.insert(table).from_select(list(shape.columns), select(*values.c))
    return (added.on_conflict_do_nothing() if shape.skip_present else added).cte(f"write_{index}")


def _unnested(index: int, shape: _Shape) -> TableValuedAlias:
    names = (*shape.by, *shape.columns)
    arrays = [bindparam(_array_name(index, name), type_=array_of(shape.table.c[name])) for name in names]
    columns = [column(name, shape.table.c[name].type) for name in names]
    return func.unnest(*arrays).table_valued(*columns).render_derived(name=f"values_{index}")


def _array_name(index: int, name: str) -> str:
    return f"w{index}_{name}"


# --- SQLite -------------------------------------------------------------------------------------------------


def _execute_in_turn(tx: Tx, pending: Sequence[tuple[_Shape, Rows]]) -> Sequence[int]:
    changed: list[int] = []
    for shape, rows in pending:
        # SQLAlchemy reserves the parameter names that equal a column's for the columns of SET
        names = {name: _key(name) for name in shape.by}
        values = [{names.get(name, name): value for name, value in row.items()} for row in rows]
        changed.append(tx.connection.execute(_single_statement(shape), values).rowcount)
    return changed


@lru_cache(maxsize=256)
def _single_statement(shape: _Shape) -> Insert | Update:
    if shape.by:
        matches = and_(*(shape.table.c[name] == bindparam(_key(name)) for name in shape.by))
        return update(shape.table).where(matches).values({name: bindparam(name) for name in shape.columns})
    added = sqlite.insert(shape.table)
    return added.on_conflict_do_nothing() if shape.skip_present else added


def _key(name: str) -> str:
    return f"key_{name}"
