"""The tables of a new SQLite store, made by the statements that its migrations leave behind.

The migrations take a tenth of a second, and most tests and the processes that they start have a store of their own.
So the process of the tests runs them once. Those of PostgreSQL, and of tables that exist already, always run.
"""

import contextlib
import sqlite3
import tempfile
from functools import cache
from pathlib import Path

from sqlalchemy import Connection

from nsai_work.store.engine import migrate
from nsai_work.store.engine.engines import make_engine, parse_url

run_migrations = migrate._run_alembic


def replay_migrations() -> None:
    """Replay the migrations of new stores from now on, in this process and in those that are forked from it."""
    migrate._run_alembic = _replay


@cache
def statements() -> tuple[str, ...]:
    """The statements that create what the migrations leave behind."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "jobs.db"
        engine = make_engine(parse_url(f"sqlite:///{file}"))
        with engine.connect() as connection, connection.begin():
            run_migrations(connection, None)
        engine.dispose()
        with contextlib.closing(sqlite3.connect(file)) as database:
            dumped = tuple(database.iterdump())
    assert (dumped[0], dumped[-1]) == ("BEGIN TRANSACTION;", "COMMIT;")
    return dumped[1:-1]


def _replay(connection: Connection, version: str | None) -> None:
    if version is not None or connection.dialect.name != "sqlite":
        run_migrations(connection, version)
        return
    for statement in statements():
        connection.exec_driver_sql(statement)
