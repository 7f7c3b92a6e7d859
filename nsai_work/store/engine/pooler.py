"""Detection of connection poolers between this process and PostgreSQL, such as PgBouncer.

A pooler in transaction mode runs each transaction on another connection of the server. What belongs to a connection
is then lost between transactions: prepared statements fail, and LISTEN receives nothing. A pooler cannot hand out
the server's process ids, by which a query is canceled, so it announces numbers of its own.
"""

from typing import Any


def is_pooled(connection: Any) -> bool:
    """Whether a psycopg connection leads to a pooler. Raises the driver's errors."""
    row = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchone()
    return bool(row[0] != connection.info.backend_pid)
