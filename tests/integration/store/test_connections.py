"""Connections in use while the store closes or loses its engine are closed when they are returned."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.pool import Pool

from nsai_work.errors import StoreUnavailable
from nsai_work.store import AsyncStore, Tx, open_store
from nsai_work.store.engine.commit_queue import CommitQueue
from nsai_work.store.engine.database import Database
from nsai_work.store.engine.listener import ListeningConnection
from tests.open_connections import close_left_open


@contextmanager
def _listening(database: Database) -> Iterator[Tx]:
    connection = ListeningConnection(database)
    with connection.transaction() as tx:
        yield tx
    connection.close()


USES: dict[str, Callable[[Database], AbstractContextManager[Tx]]] = {
    "transaction": Database.transaction,
    "autocommit": Database.autocommit,
    "listening": _listening,
}


@pytest.fixture
def opened() -> Iterator[set[int]]:
    """The driver's connections that are open, of all engines."""
    found: set[int] = set()

    def on_connect(raw: Any, _record: object) -> None:
        found.add(id(raw))

    def on_close(raw: Any, _record: object) -> None:
        found.remove(id(raw))

    event.listen(Pool, "connect", on_connect)
    event.listen(Pool, "close", on_close)
    yield found
    event.remove(Pool, "connect", on_connect)
    event.remove(Pool, "close", on_close)


@pytest.mark.parametrize(
    "end", [Database.close, lambda database: database.engine().dispose()], ids=["close", "lost"]
)
@pytest.mark.parametrize("use", USES)
def test_a_connection_in_use_is_closed_when_it_is_returned(
    url: str, opened: set[int], use: str, end: Callable[[Database], None]
) -> None:
    """A thread that has a connection through the close, or through the loss of another connection, may finish its
    work; nothing is left to the garbage collector."""
    database = open_store(url).database
    held, ended = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with USES[use](database) as tx:
                held.set()
                assert ended.wait(60)
                assert tx.connection.exec_driver_sql("SELECT 1").scalar_one() == 1
        except BaseException as error:
            errors.append(error)
            held.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert held.wait(60)
    end(database)
    assert opened
    ended.set()
    thread.join()

    assert errors == []
    if end is not Database.close:
        database.close()
    assert not opened
    # later calls open a new one
    database.read(lambda tx: tx.connection.exec_driver_sql("SELECT 1"))
    database.close()
    assert not opened


def test_a_thread_that_dies_returns_its_connection(
    url: str, opened: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of an AsyncStore: its connection is closed with the others of the database."""
    database = open_store(url).database

    async def scenario() -> None:
        async_store = AsyncStore(database)
        await async_store.running_leases()

        def die(self: CommitQueue) -> list[object]:
            raise OSError("EBADF")

        monkeypatch.setattr(CommitQueue, "next_group", die)
        # one that waits already takes one more call
        await asyncio.gather(*(async_store.running_leases() for _ in range(2)), return_exceptions=True)
        with pytest.raises(StoreUnavailable):
            await async_store.running_leases()
        await async_store.close()

    asyncio.run(scenario())
    database.close()

    assert not opened


@pytest.mark.postgres
def test_a_connection_left_open_by_a_test_is_named(postgres_store_url: str, request: pytest.FixtureRequest) -> None:
    """The check at the end of each test module names the test that opened it."""
    store = open_store(postgres_store_url)
    store.ping()

    [found] = close_left_open()

    assert request.node.nodeid in found
    store.close()
    store.ping()
    store.close()
    assert close_left_open() == []
