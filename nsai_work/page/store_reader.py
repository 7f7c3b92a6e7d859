"""Reads of the store for the page: in threads, each in a single read-only transaction."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

from nsai_work.client.connections import open_job_store
from nsai_work.errors import StoreGone, StoreUnavailable
from nsai_work.settings import Settings, sqlite_file

if TYPE_CHECKING:
    from nsai_work.store import Store
    from nsai_work.store.engine.database import Tx

T = TypeVar("T")

MAX_READS: Final = 4
"""The number of concurrent reads."""


class StoreReader:
    """Reads the store of the settings. It makes none: until there is one, and while it is away, reads raise.

    A read does not go through ``AsyncStore``, whose transactions write: on SQLite a page that is open all day would
    take the write lock from the workers.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(MAX_READS, thread_name_prefix="nsai-work page")
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._closed = False

    async def read(self, query: "Callable[[Tx], T]") -> T:
        """Run a query in a transaction and return its result.

        Raises:
            StoreUnavailable: there is no store yet, or the database does not answer.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, query)

    def close(self) -> None:
        """Close the connections. Reads that run are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._closed = True
            if self._store is not None:
                self._store.close()

    def _read(self, query: "Callable[[Tx], T]") -> T:
        file = sqlite_file(self._settings.database_url)
        if file is not None and not file.exists():
            raise StoreUnavailable(f"there is no job store at {file}; nsai-work submit and nsai-work run make one")
        store = self._opened()
        try:
            return store.database.read(query)
        except StoreGone:
            # it is read anew if another file is there, which is not the one that was open
            store.close()
            if file is None or not file.exists():
                raise
            return store.database.read(query)

    def _opened(self) -> "Store":
        with self._lock:
            if self._closed:
                raise StoreUnavailable("the page is stopping")
            if self._store is None:
                self._store = open_job_store(self._settings)
            return self._store
