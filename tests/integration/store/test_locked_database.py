"""An SQLite database whose write lock another process holds: it is waited for once, and then said to be away."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection

from nsai_work.errors import StoreUnavailable
from nsai_work.store import AsyncStore, open_store
from nsai_work.store.engine import database, engines
from tests.rig import sqlite_template

BUSY_S = 0.05


def test_a_lock_that_is_not_released_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as often as transactions that collide are repeated: each try waits for as long as SQLite does."""
    monkeypatch.setattr(engines, "SQLITE_BUSY_S", BUSY_S)
    monkeypatch.setattr(database, "CONFLICT_S", BUSY_S)
    begun: list[Connection] = []
    begin = engines._begin_sqlite

    def counted(connection: Connection) -> None:
        begun.append(connection)
        begin(connection)

    monkeypatch.setattr(engines, "_begin_sqlite", counted)
    file = tmp_path / "jobs.db"
    file.write_bytes(sqlite_template().read_bytes())
    store = open_store(f"sqlite:///{file}")
    store.ping()
    begun.clear()

    async def merged() -> None:
        merging = AsyncStore(store.database, patience_s=BUSY_S)
        try:
            await asyncio.gather(*(merging.run(lambda _: None) for _ in range(3)))
        finally:
            await merging.close()

    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            store.database.run(lambda _: None)
        assert len(begun) == 1
        with pytest.raises(StoreUnavailable, match="locked"):
            asyncio.run(merged())
        # the operations are one transaction, or two if the thread took the first alone
        assert len(begun) <= 3
        other.execute("ROLLBACK")
    store.database.run(lambda _: None)
    store.close()
