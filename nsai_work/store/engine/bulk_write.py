"""Several writes in one round trip.

PostgreSQL takes all of them as one statement, ``WITH a AS (INSERT ...), b AS (UPDATE ...) SELECT ...``, with one
array a column for values: its text is the same however many rows there are, so neither the driver nor the server
has to read a new one each time. SQLite, to which there is no way to travel, takes them one after the other.
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
    """What a write looks like without its values. ``by`` are the key columns of an update; an insert has none."""

    table: Table
    columns: tuple[str, ...]
    by: tuple[str, ...] = ()
    skip_present: bool = False
    exact: bool = False


class BulkWrite:
    """Collects writes of one transaction; ``run`` sends them.

    None of them may rely on what another one of the same collection writes, nor may two change the same row. All
    rows of a write have the same columns.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[_Shape, Rows]] = []

    def insert(self, table: Table, rows: Rows, *, skip_present: bool = False) -> None:
        """New rows; with ``skip_present`` those whose key is there already stay as they are."""
        if rows:
            self._pending.append((_Shape(table, tuple(rows[0]), skip_present=skip_present), rows))

    def update(self, table: Table, rows: Rows, *, by: tuple[str, ...], exact: bool = False) -> None:
        """Change rows: each of ``rows`` holds the key columns ``by`` and the columns to set. With ``exact`` each
        must be there, or the whole transaction fails."""
        if rows:
            columns = tuple(name for name in rows[0] if name not in by)
            self._pending.append((_Shape(table, columns, by=by, exact=exact), rows))

    def run(self, tx: Tx) -> None:
        """Send all that has been collected.

        Raises:
            CrucibleError: rows of an exact update were not there.
        """
        pending, self._pending = self._pending, []
        if not pending:
            return
        changed = _run_together(tx, pending) if tx.postgres else _run_in_turn(tx, pending)
        for (shape, rows), count in zip(pending, changed, strict=True):
            if shape.exact and count != len(rows):
                raise CrucibleError(f"{len(rows)} rows of {shape.table.name} were to change, {count} did")


def insert_new(tx: Tx, table: Table, rows: Rows) -> None:
    """Insert rows; those whose key is there already stay as they are."""
    writes = BulkWrite()
    writes.insert(table, rows, skip_present=True)
    writes.run(tx)


# --- PostgreSQL ---------------------------------------------------------------------------------------------


def _run_together(tx: Tx, pending: Sequence[tuple[_Shape, Rows]]) -> Sequence[int]:
    values = {
        _name(place, name): [row[name] for row in rows]
        for place, (shape, rows) in enumerate(pending)
        for name in (*shape.by, *shape.columns)
    }
    statement = _together(tuple(shape for shape, _ in pending))
    return tuple(tx.connection.execute(statement, values).one())


@lru_cache(maxsize=256)
def _together(shapes: tuple[_Shape, ...]) -> Select[Any]:
    # kept, because building it takes longer than running it
    parts = [_part(place, shape) for place, shape in enumerate(shapes)]
    counts = [
        _count(part) if shape.by else literal(0).label(part.name) for shape, part in zip(shapes, parts, strict=True)
    ]
    return cast("Select[Any]", select(*counts).add_cte(*parts).execution_options(**PREPARED))


def _count(changed: CTE) -> ColumnElement[int]:
    return select(func.count()).select_from(changed).scalar_subquery().label(changed.name)


def _part(place: int, shape: _Shape) -> CTE:
    given = _given(place, shape)
    table = shape.table
    if shape.by:
        matches = and_(*(table.c[name] == given.c[name] for name in shape.by))
        changed = update(table).where(matches).values({name: given.c[name] for name in shape.columns})
        return changed.returning(table.c[shape.by[0]]).cte(f"write_{place}")
    added = postgresql.insert(table).from_select(list(shape.columns), select(*given.c))
    return (added.on_conflict_do_nothing() if shape.skip_present else added).cte(f"write_{place}")


def _given(place: int, shape: _Shape) -> TableValuedAlias:
    names = (*shape.by, *shape.columns)
    arrays = [bindparam(_name(place, name), type_=array_of(shape.table.c[name])) for name in names]
    columns = [column(name, shape.table.c[name].type) for name in names]
    return func.unnest(*arrays).table_valued(*columns).render_derived(name=f"given_{place}")


def _name(place: int, name: str) -> str:
    return f"w{place}_{name}"


# --- SQLite -------------------------------------------------------------------------------------------------


def _run_in_turn(tx: Tx, pending: Sequence[tuple[_Shape, Rows]]) -> Sequence[int]:
    changed: list[int] = []
    for shape, rows in pending:
        # a parameter of an update may not have the name of a column that is not set
        names = {name: _key(name) for name in shape.by}
        values = [{names.get(name, name): value for name, value in row.items()} for row in rows]
        changed.append(tx.connection.execute(_alone(shape), values).rowcount)
    return changed


@lru_cache(maxsize=256)
def _alone(shape: _Shape) -> Insert | Update:
    if shape.by:
        matches = and_(*(shape.table.c[name] == bindparam(_key(name)) for name in shape.by))
        return update(shape.table).where(matches).values({name: bindparam(name) for name in shape.columns})
    added = sqlite.insert(shape.table)
    return added.on_conflict_do_nothing() if shape.skip_present else added


def _key(name: str) -> str:
    return f"key_{name}"
