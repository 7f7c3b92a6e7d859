"""Events of jobs: entries appended to their logs."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from pydantic import JsonValue

from nsai_work.store.engine.bulk_write import BulkWrite
from nsai_work.store.engine.database import Tx
from nsai_work.store.lifecycle.locks import lock_job
from nsai_work.store.schema import events

Entry: TypeAlias = tuple[int, str, dict[str, Any]]
"""Seq of the job, name and data of an event."""


def append_events(tx: Tx, entries: Sequence[Entry]) -> None:
    """Append events. The caller holds the locks of the jobs' rows, which orders each log."""
    bulk = BulkWrite()
    plan_events(tx, entries, bulk)
    bulk.execute(tx)


def plan_events(tx: Tx, entries: Sequence[Entry], bulk: BulkWrite) -> None:
    """Add the events to a bulk write. Otherwise as ``append_events``."""
    rows = [{"job_seq": seq, "at": tx.now, "name": name, "data": data} for seq, name, data in entries]
    bulk.insert(events, rows)


def add_event(tx: Tx, job_id: str, name: str, data: dict[str, JsonValue]) -> None:
    """Lock a job and append an event, without a claim. Raises JobNotFound."""
    row = lock_job(tx, job_id, None)
    append_events(tx, [(row.seq, name, data)])
