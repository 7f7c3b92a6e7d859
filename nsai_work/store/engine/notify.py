"""Notices: PostgreSQL tells the workers that listen when a job has become ready.

They come with the commit itself, sooner than a broker could be told. They are a short cut and nothing more: a
worker that hears none (behind a pooler, say) is told by the broker, and looks for itself.
https://www.postgresql.org/docs/current/sql-notify.html
"""

from typing import Any, Final

from sqlalchemy import ColumnElement, func, literal_column

CHANNEL: Final = "nsai_work_ready"


def notice() -> ColumnElement[Any]:
    """A column that, when it is evaluated, gives notice once its transaction is committed: one for each
    transaction, however often it is evaluated."""
    return func.pg_notify(literal_column(f"'{CHANNEL}'"), literal_column("''"))
