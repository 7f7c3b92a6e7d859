"""A job's reads from other jobs, pinned so that every attempt reads the same."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, select, update

from nsai_work.payloads.reads import PinnedRead
from nsai_work.store.engine.database import Tx
from nsai_work.store.journal.fences import fence
from nsai_work.store.journal.rows import read_row, unreadable
from nsai_work.store.lifecycle.events import append_events
from nsai_work.store.records import Claim
from nsai_work.store.schema import specs


def pin_reads(tx: Tx, claim: Claim, reads: Mapping[str, PinnedRead]) -> None:
    """Pin what a claimed job has read, by field, with its event. Raises LeaseLost."""
    fence(tx, claim)
    values = {field: read.model_dump(mode="json", exclude_none=True) for field, read in reads.items()}
    tx.connection.execute(update(specs).where(specs.c.job_seq == claim.seq).values(reads=values))
    append_events(tx, [(claim.seq, "job.read", {"fields": values})])


def pinned_reads(tx: Tx, seq: int) -> dict[str, PinnedRead]:
    """The values that a job has read, by field; none before its first attempt. Raises UnreadableJournal."""
    row: Row[Any] = tx.connection.execute(select(specs).where(specs.c.job_seq == seq)).one()
    if row.reads is None:
        return {}
    if not isinstance(row.reads, dict):
        raise unreadable(specs, row._mapping, "reads: an object is required")
    return {str(field): read_row(specs, row, PinnedRead, value) for field, value in row.reads.items()}
