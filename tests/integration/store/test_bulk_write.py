"""Bulk writes: rows written, skipped and refused, on each database."""

import shutil
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import make_url, select, text
from sqlalchemy.exc import DBAPIError

from crucible.errors import CrucibleError
from nsai_work.store import Store
from nsai_work.store.engine.bulk_write import BulkWrite, insert_new
from nsai_work.store.engine.database import Tx
from nsai_work.store.schema import elections, workers
from tests.rig import sqlite_template

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def election(name: str, holder: str = "w1", term: int = 1) -> dict[str, Any]:
    return {"name": name, "holder": holder, "term": term, "beat": 0}


LATER = ("priorities", "seen_every_ms", "declined", "job_ids", "has_presence")


def worker(name: str, **fields: Any) -> dict[str, Any]:
    row = {"id": name, "host": "h", "pid": 1, "version": "1", "backends": {}, "started_at": WHEN, "seen_at": WHEN}
    return {**row, "stopped_at": None, **dict.fromkeys(LATER), **fields}


def stored(store: Store, table: Any) -> list[dict[str, Any]]:
    return store.database.read(
        lambda tx: [dict(row._mapping) for row in tx.connection.execute(select(table).order_by(*table.primary_key))]
    )


def test_inserts_and_updates_of_several_tables(store: Store) -> None:
    """Times, JSON and nulls round-trip; each updated row gets its own values."""
    store.database.run(insert_new, elections, [election("a"), election("b")])

    def operation(tx: Tx) -> None:
        bulk = BulkWrite()
        bulk.insert(workers, [worker("w1", backends={"ü\x00": [1, None]}), worker("w2", stopped_at=WHEN)])
        moved = [{"name": "a", "holder": "w2", "term": 7}, {"name": "b", "holder": "w3", "term": 8}]
        bulk.update(elections, moved, by=("name",), exact=True)
        bulk.execute(tx)

    store.database.run(operation)

    assert stored(store, workers) == [
        worker("w1", backends={"ü\x00": [1, None]}),
        worker("w2", stopped_at=WHEN),
    ]
    assert stored(store, elections) == [election("a", "w2", 7), election("b", "w3", 8)]


def test_an_existing_row_is_left_unchanged(store: Store) -> None:
    """``skip_present`` is for rows that several processes may insert at the same time."""
    store.database.run(insert_new, elections, [election("a", "first")])
    store.database.run(insert_new, elections, [election("a", "second"), election("b", "second")])

    assert [row["holder"] for row in stored(store, elections)] == ["first", "second"]


def test_an_exact_update_that_misses_a_row_rolls_back(store: Store) -> None:
    """A caller holds the locks of its rows, so they must exist; otherwise nothing is written."""
    store.database.run(insert_new, elections, [election("a")])

    def operation(tx: Tx) -> None:
        bulk = BulkWrite()
        bulk.insert(workers, [worker("w1")])
        bulk.update(elections, [{"name": "a", "term": 2}, {"name": "gone", "term": 2}], by=("name",), exact=True)
        bulk.execute(tx)

    with pytest.raises(CrucibleError, match="2 rows of nsai_elections were to change, 1 did"):
        store.database.run(operation)

    assert stored(store, workers) == []
    assert stored(store, elections) == [election("a")]


def test_an_empty_bulk_write_sends_nothing(store: Store) -> None:
    """An empty collection needs no statement."""

    def operation(tx: Tx) -> None:
        bulk = BulkWrite()
        bulk.insert(workers, [])
        bulk.update(elections, [], by=("name",), exact=True)
        bulk.execute(tx)

    store.database.run(operation)

    assert stored(store, workers) == []


@pytest.mark.postgres
def test_a_text_too_long_for_its_column_is_refused_not_truncated(postgres_store_url: str) -> None:
    """An array of VARCHAR(40) would silently truncate its elements."""
    from nsai_work.store import open_store

    store = open_store(postgres_store_url)
    with pytest.raises(DBAPIError, match="too long"):
        store.database.run(insert_new, workers, [worker("w1", version="v" * 41)])
    assert stored(store, workers) == []
    store.close()


@pytest.mark.postgres
@pytest.mark.parametrize(("parameter", "kept"), [("on", True), ("off", False)])
def test_prepared_statements_can_be_turned_off(postgres_store_url: str, parameter: str, kept: bool) -> None:
    """Some poolers do not support them; by default they are used."""
    from nsai_work.store import open_store

    store = open_store(make_url(postgres_store_url).update_query_dict({"prepared": parameter}))
    store.database.run(insert_new, workers, [worker("w1")])

    count = store.database.read(
        lambda tx: tx.connection.execute(text("SELECT count(*) FROM pg_prepared_statements")).scalar_one()
    )

    assert (count > 0) is kept
    assert len(stored(store, workers)) == 1
    store.close()


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
ROWS = st.lists(
    st.tuples(TEXT, st.integers(-(2**31), 2**31 - 1), st.dictionaries(TEXT, TEXT, max_size=2)),
    max_size=6,
    unique_by=lambda row: row[0],
)


@pytest.fixture(scope="module")
def module_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of an SQLite store for the examples of this module."""
    path = tmp_path_factory.mktemp("rows") / "jobs.db"
    shutil.copy(sqlite_template(), path)
    return f"sqlite:///{path}"


@settings(max_examples=25, deadline=None)
@given(rows=ROWS)
def test_any_rows_round_trip(rows: list[tuple[str, int, dict[str, str]]], module_url: str) -> None:
    """Quotes, braces, commas and backslashes in arrays are values like any others."""
    _round_trip(module_url, rows)


@pytest.mark.postgres
@settings(max_examples=25, deadline=None)
@given(rows=ROWS)
def test_any_rows_round_trip_through_postgres(
    rows: list[tuple[str, int, dict[str, str]]], postgres_template: str
) -> None:
    """As above, through PostgreSQL's arrays."""
    _round_trip(postgres_template, rows)


def _round_trip(url: str, rows: list[tuple[str, int, dict[str, str]]]) -> None:
    from nsai_work.store import open_store

    store = open_store(url)
    given_rows = [worker(name, pid=pid, backends=backends) for name, pid, backends in rows]
    try:
        store.database.run(lambda tx: tx.connection.execute(workers.delete()))
        store.database.run(insert_new, workers, given_rows)
        assert {row["id"]: row for row in stored(store, workers)} == {row["id"]: row for row in given_rows}
        store.database.run(lambda tx: tx.connection.execute(workers.delete()))
    finally:
        store.close()
