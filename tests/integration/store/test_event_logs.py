"""Queries of a job's log: they do not read its optimizer steps, of which there may be a million."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from sqlalchemy.event import listen, remove

from nsai_work.job import Job
from nsai_work.store import Claim, ClaimRequest, Tx
from nsai_work.store.journal.runs import events_of, has_event
from nsai_work.store.wait_reasons.requeue import requeue_reason
from tests.working_store import WorkingStore

READS: dict[str, Callable[[Tx, Claim], object]] = {
    "events of a name": lambda tx, claim: events_of(tx, claim, "run.began"),
    "whether there is one": lambda tx, claim: has_event(tx, claim, "run.began"),
    "why a job is queued again": lambda tx, claim: requeue_reason(tx, cast("Any", claim)),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_the_index_without_steps_is_used(
    sqlite_store: WorkingStore,
    make_job: Callable[..., Job],
    claim_request: Callable[..., ClaimRequest],
    read: Callable[[Tx, Claim], object],
) -> None:
    """It serves a query that says so."""
    store = sqlite_store
    store.submit([make_job()])
    (claim,) = store.claim(claim_request())
    statements: list[tuple[str, Sequence[Any]]] = []

    def note(*given: Any) -> None:
        statements.append((given[2], given[3]))

    listen(store.database.engine(), "before_cursor_execute", note)
    store.database.read(read, claim)
    remove(store.database.engine(), "before_cursor_execute", note)

    of_events = [(text, values) for text, values in statements if "FROM nsai_events" in text]
    assert of_events
    for text, values in of_events:
        with store.database.transaction(write=False) as tx:
            plan = tx.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", tuple(values)).all()
        assert "nsai_events_log" in str(plan), text
