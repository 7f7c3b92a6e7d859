"""An empty store on each database for each test, with a clock that the test controls."""

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import NullPool, create_engine, make_url, text

from nsai_work import store as stores
from nsai_work.job import Job
from nsai_work.store import ClaimRequest, migrate_store
from nsai_work.store.engine.migrate import HEAD, VERSION_TABLE
from nsai_work.store.schema import jobs, lanes, metadata
from tests.rig import sqlite_template
from tests.working_store import WorkingStore, open_working_store, selection

if TYPE_CHECKING:
    from tests.integration.store.waiting_queue import Queue


class ManualClock:
    """Two manual clocks: the wall clock may step, the monotonic clock only rises."""

    def __init__(self) -> None:
        self.wall = datetime(2026, 1, 1, tzinfo=UTC)
        self.steady = 1_000.0

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.steady

    def pass_time(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.steady += seconds

    def step_wall(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> ManualClock:
    """The clock of the test's store."""
    return ManualClock()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The address of an empty SQLite store."""
    path = tmp_path / "jobs.db"
    shutil.copy(sqlite_template(), path)
    return f"sqlite:///{path}"


@contextmanager
def new_schema(server: str) -> Iterator[str]:
    """The address of a new schema of a PostgreSQL database; it is dropped afterwards."""
    schema = f"store_{secrets.token_hex(6)}"
    # without a pool: the schema may live for the session, a connection for a module at most
    engine = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    url = make_url(server).update_query_dict({"options": f"-csearch_path={schema}"})
    try:
        yield url.render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))


@pytest.fixture
def schema_url(postgres_url: str) -> Iterator[str]:
    """The address of a schema without any tables."""
    with new_schema(postgres_url) as url:
        yield url


@pytest.fixture(scope="session")
def postgres_template(postgres_url: str) -> Iterator[str]:
    """The address of a schema with all tables, shared by the tests of this session."""
    with new_schema(postgres_url) as url:
        migrate_store(url)
        yield url


@pytest.fixture
def postgres_store_url(postgres_template: str) -> str:
    """The address of empty tables on PostgreSQL."""
    # for a few rows much faster than TRUNCATE, which replaces the file of each table and each index
    emptied = [f"DELETE FROM {table.name}" for table in reversed(metadata.sorted_tables)]
    with create_engine(postgres_template, poolclass=NullPool).begin() as connection:
        connection.exec_driver_sql("; ".join([*emptied, f"UPDATE {VERSION_TABLE} SET version_num = '{HEAD}'"]))
    return postgres_template


@pytest.fixture(params=["sqlite", pytest.param("postgres_store", id="postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest) -> str:
    """The address of an empty store, on each database."""
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture(scope="module")
def shared_postgres_store(request: pytest.FixtureRequest) -> Iterator[WorkingStore]:
    """A store on PostgreSQL. Its connections and compiled statements serve all tests of a module."""
    opened = open_working_store(request.getfixturevalue("postgres_template"), ManualClock())
    yield opened
    opened.close()


@pytest.fixture
def store(url: str, clock: ManualClock, request: pytest.FixtureRequest) -> Iterator[WorkingStore]:
    """An empty store."""
    if url.startswith("sqlite"):
        opened = open_working_store(url, clock)
        yield opened
        opened.close()
    else:
        opened = request.getfixturevalue("shared_postgres_store")
        opened.database.clock = clock
        yield opened


@pytest.fixture
def sqlite_store(sqlite_url: str, clock: ManualClock) -> Iterator[WorkingStore]:
    """An empty store on SQLite, which accepts any value in any column."""
    opened = open_working_store(sqlite_url, clock)
    yield opened
    opened.close()


def empty(store: WorkingStore) -> None:
    """Delete all jobs and lanes."""
    with store.database.transaction() as tx:
        for table in (jobs, lanes):
            tx.connection.execute(table.delete())


@pytest.fixture
def queue(
    store: WorkingStore,
    clock: ManualClock,
    make_job: Callable[..., Job],
    claim_request: Callable[..., ClaimRequest],
) -> "Queue":
    """A queue without jobs and workers."""
    from tests.integration.store.waiting_queue import Queue

    return Queue(store, clock, make_job, claim_request)


@pytest.fixture
def make_job() -> Callable[..., Job]:
    """Factory of small command jobs; any field can be set."""

    def make(**fields: object) -> Job:
        return Job.parse({"kind": "tool_call", "backend": "fake", "payload": {"command": "noop"}, **fields})

    return make


@pytest.fixture
def claim_request() -> Callable[..., ClaimRequest]:
    """Factory of claim requests: worker w1, one job, a lease of 10 seconds; other fields set the selection."""

    def make(worker_id: str = "w1", limit: int = 1, lease_ttl_s: float = 10.0, **fields: object) -> ClaimRequest:
        return stores.ClaimRequest(worker_id, limit, lease_ttl_s, selection(**fields))  # type: ignore[arg-type]

    return make
