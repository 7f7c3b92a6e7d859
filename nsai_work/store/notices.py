"""Notices: PostgreSQL tells the workers that listen when a job has become ready.

They come with the commit itself, sooner than a broker could be told. They are a short cut and nothing more: a
worker that hears none (behind a pooler, say) is told by the broker, and looks for itself.
https://www.postgresql.org/docs/current/sql-notify.html
"""

from typing import Any, Final

from sqlalchemy import ColumnElement, func, literal_column, select

from nsai_work.store.database import Tx

CHANNEL: Final = "nsai_work_ready"


def notice() -> ColumnElement[Any]:
    """A column that, when it is evaluated, gives notice once its transaction is committed."""
    return func.pg_notify(literal_column(f"'{CHANNEL}'"), literal_column("''"))


def give_notice(tx: Tx) -> None:
    """Tell listening workers, once this transaction is committed, that a job is ready."""
    if tx.postgres:
        tx.connection.execute(select(notice()))
