"""Calls about more rows than a statement has parameters: 65,535 on PostgreSQL, 32,766 in some builds of SQLite."""

import sqlite3
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import event

from nsai_work.job import Job
from nsai_work.store import Lease, Tx
from nsai_work.store.claim.candidates import find_candidates
from nsai_work.store.lifecycle.dependencies import settle, settle_dependents
from nsai_work.store.maintenance.rescuer import reclaim
from nsai_work.store.submit.general import submitted_ids
from tests.working_store import WorkingStore, selection

MANY = 66_000
SQLITE_PARAMETERS = 32_766

CALLS: dict[str, Callable[[Tx], object]] = {
    "settle": lambda tx: settle(tx, range(MANY)),
    "settle dependents": lambda tx: settle_dependents(tx, range(MANY)),
    "submitted ids": lambda tx: submitted_ids(tx, [("tenant", "namespace", f"key {n}") for n in range(MANY)]),
    "candidates by id": lambda tx: (
        find_candidates(tx, selection(job_ids=[f"job {n}" for n in range(MANY)]), limited=False).lanes
    ),
    "reclaim": lambda tx: reclaim(tx, [Lease(n, f"job {n}", 1, 0, 1.0, "w") for n in range(MANY // 3)]),
}


@pytest.fixture
def limited(store: WorkingStore) -> Iterator[WorkingStore]:
    """A store whose SQLite takes as few parameters as any build does."""

    def limit(connection: object, *_: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, SQLITE_PARAMETERS)

    engine = store.database.engine()
    event.listen(engine, "checkout", limit)
    yield store
    event.remove(engine, "checkout", limit)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_takes_any_number_of_rows(limited: WorkingStore, call: Callable[[Tx], object]) -> None:
    """Nothing of it exists here; the statement alone counts."""
    assert not limited.database.run(call)


def test_a_job_may_depend_on_many(limited: WorkingStore, make_job: Callable[..., Job]) -> None:
    """An unknown one is named, however many there are."""
    names = [f"job {number}" for number in range(MANY)]
    with pytest.raises(Exception, match="there is no job 'job 0'"):
        limited.submit([make_job(constraints={"depends_on": names})])
