"""PostgreSQL notifications of ready jobs.

PostgreSQL delivers them with the commit, sooner than a broker could be reached. They only save latency: a worker
that receives none (behind a pooler, for example) is woken by the broker, and polls.
https://www.postgresql.org/docs/current/sql-notify.html
"""

from typing import Any, Final

from sqlalchemy import ColumnElement, func, literal_column

CHANNEL: Final = "nsai_work_ready"


def notify_ready() -> ColumnElement[Any]:
    """A column whose evaluation sends a notification when the transaction commits. PostgreSQL sends one per
    transaction, however often the column is evaluated."""
    return func.pg_notify(literal_column(f"'{CHANNEL}'"), literal_column("''"))
