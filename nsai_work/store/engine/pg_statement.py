"""Statements that are sent straight through PostgreSQL's driver.

SQLAlchemy builds them, once. That it need not look at them again with each execution saves a third of the time
that a submission or a claim takes on an idle machine, which is why these two are sent so, and nothing else is.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlalchemy import Select
from sqlalchemy.dialects.postgresql import psycopg as dialects
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from nsai_work.store.engine.database import Tx

_DIALECT: Final = dialects.dialect()  # type: ignore[no-untyped-call]  # sqlalchemy leaves it so

Processor = Callable[[Any], Any]


def to_driver(kind: TypeEngine[Any]) -> Processor | None:
    """What makes a value of this type one that the driver takes; None if nothing need be done."""
    return kind.dialect_impl(_DIALECT).bind_processor(_DIALECT)


def from_driver(kind: TypeEngine[Any]) -> Processor | None:
    """The same for a value that the driver gives."""
    return kind.dialect_impl(_DIALECT).result_processor(_DIALECT, None)


class PgStatement:
    """One statement. It may have no parameters that are lists to be written out (``IN``)."""

    def __init__(self, statement: Select[Any]) -> None:
        compiled = statement.compile(dialect=_DIALECT)
        self._sql = compiled.string
        self._fixed: dict[str, Any] = {}
        self._before: dict[str, Processor] = {}
        for parameter, name in compiled.bind_names.items():
            processor = to_driver(parameter.type)
            if processor is not None:
                self._before[name] = processor
            if not parameter.required:
                self._fixed[name] = parameter.value if processor is None else processor(parameter.value)
        self._names = [column.name for column in statement.selected_columns]
        self._after = {
            column.name: processor
            for column in statement.selected_columns
            if (processor := from_driver(column.type)) is not None
        }

    def execute(self, tx: Tx, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The rows, by column. Raises what SQLAlchemy would."""
        driver: Any = tx.connection.connection.driver_connection
        parameters = dict(self._fixed)
        for name, value in values.items():
            processor = self._before.get(name)
            parameters[name] = value if processor is None else processor(value)
        try:
            found = driver.execute(self._sql, parameters, prepare=True).fetchall()
        except _driver_error() as error:
            raise self._translated(tx, driver, error) from error
        return [self._row(one) for one in found]

    def _row(self, given: tuple[Any, ...]) -> dict[str, Any]:
        row = dict(zip(self._names, given, strict=True))
        for name, processor in self._after.items():
            row[name] = processor(row[name])
        return row

    def _translated(self, tx: Tx, driver: Any, error: Exception) -> BaseException:
        lost = bool(driver.closed)
        if lost:
            tx.connection.invalidate(error)
            # what ended this connection has ended the idle ones too
            tx.connection.engine.dispose()
        return DBAPIError.instance(
            self._sql, None, error, _driver_error(), hide_parameters=True, connection_invalidated=lost
        )


def _driver_error() -> type[Exception]:
    # PostgreSQL's driver is an extra
    from psycopg import Error

    return Error
