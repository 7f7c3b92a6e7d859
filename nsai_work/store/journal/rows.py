"""Reading of journal rows. One that was damaged, or written by another version, is an error that names it."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from sqlalchemy import Row, Table

from crucible.values.json_types import to_json
from nsai_work.errors import InvalidJob, UnreadableJournal

RecordT = TypeVar("RecordT", bound=BaseModel)


def read_row(table: Table, row: Row[Any], model: type[RecordT], values: object) -> RecordT:
    """Return the record with these values from a row.

    Raises:
        UnreadableJournal: they are no such record.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = InvalidJob.from_validation(error, model).message.replace("\n", "; ")
        raise unreadable(table, row._mapping, problems) from error


def unreadable(table: Table, row: Mapping[Any, Any], problem: str) -> UnreadableJournal:
    """Build the error for a row, which must have the columns of the table's primary key."""
    key = {column.name: to_json(row[column.name]) for column in table.primary_key}
    shown = ", ".join(f"{name} {value}" for name, value in key.items())
    return UnreadableJournal(
        f"{table.name}, row of {shown}: {problem}", details={"table": table.name, "row": dict(key)}
    )
