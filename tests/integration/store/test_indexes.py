"""Queries that are asked often, or of long logs: the indexes that they use."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from sqlalchemy.event import listen, remove

from nsai_work.job import Job
from nsai_work.store import Claim, ClaimRequest, Tx
from nsai_work.store.journal.runs import events_of, has_event
from nsai_work.store.queries.jobs import cancel_requests
from nsai_work.store.wait_reasons.requeue import requeue_reason
from tests.working_store import WorkingStore

WITHOUT_STEPS = "nsai_events_log"
"""The index of a log without its optimizer steps, of which there may be a million."""
CANCEL_REQUESTS = "nsai_jobs_cancel_requested"
"""The index of few jobs at any time: each worker looks for its own twice a second, and many jobs run."""

READS: dict[str, tuple[str, Callable[[Tx, Claim], object]]] = {
    "events of a name": (WITHOUT_STEPS, lambda tx, claim: events_of(tx, claim, "run.began")),
    "whether there is one": (WITHOUT_STEPS, lambda tx, claim: has_event(tx, claim, "run.began")),
    "why a job is queued again": (WITHOUT_STEPS, lambda tx, claim: requeue_reason(tx, cast("Any", claim))),
    "requests to cancel": (CANCEL_REQUESTS, lambda tx, claim: cancel_requests(tx, claim.worker_id)),
}


@pytest.mark.parametrize(("index", "read"), READS.values(), ids=READS)
def test_an_index_is_used(
    sqlite_store: WorkingStore,
    make_job: Callable[..., Job],
    claim_request: Callable[..., ClaimRequest],
    index: str,
    read: Callable[[Tx, Claim], object],
) -> None:
    """It serves the statement as it is."""
    store = sqlite_store
    store.submit([make_job()])
    (claim,) = store.claim(claim_request())
    statements: list[tuple[str, Sequence[Any]]] = []

    def note(*given: Any) -> None:
        statements.append((given[2], given[3]))

    listen(store.database.engine(), "before_cursor_execute", note)
    store.database.read(read, claim)
    remove(store.database.engine(), "before_cursor_execute", note)

    with store.database.transaction(write=False) as tx:
        plans = [
            str(tx.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", tuple(values)).all())
            for text, values in statements
        ]
    assert any(index in plan for plan in plans), plans
