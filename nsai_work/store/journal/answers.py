"""Answers of inference batches: rows of compressed JSON, written for many jobs at once.

The transaction that adds an answer counts it too: ``jobs.progress`` is the number of a batch's answers.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select, tuple_

from crucible.errors import CrucibleError
from nsai_work.journal import AnswerRow
from nsai_work.store.engine.bulk_write import BulkWrite
from nsai_work.store.engine.database import Tx
from nsai_work.store.journal.fences import fence, fence_all, fence_errors
from nsai_work.store.records import Claim
from nsai_work.store.schema import answers, jobs


@dataclass(frozen=True, slots=True)
class NewAnswer:
    """An answer that a claim's owner has received."""

    claim: Claim
    row: AnswerRow

    @property
    def key(self) -> tuple[int, int]:
        """The primary key of the answer."""
        return (self.claim.seq, self.row.line)


def keep_answers(tx: Tx, items: Sequence[NewAnswer]) -> list[CrucibleError | None]:
    """Keep answers and count them. Returns None for each item, or the LeaseLost to raise to its owner.

    An answer that is kept already is left unchanged. A new one is progress, and resets the count of crashes.
    """
    held = fence_all(tx, (item.claim for item in items))
    owned = {item.key: item for item in reversed(items) if (item.claim.seq, item.claim.fence) in held}
    fresh = [owned[key] for key in sorted(owned.keys() - _kept(tx, list(owned)))]
    if fresh:
        counts = Counter(item.claim.seq for item in fresh)
        before = {seq: progress for (seq, _), progress in held.items()}
        progress = [{"seq": seq, "progress": before[seq] + n, "crashes": 0} for seq, n in sorted(counts.items())]
        bulk = BulkWrite()
        bulk.insert(answers, [_row(item) for item in fresh])
        bulk.update(jobs, progress, by=("seq",))
        bulk.execute(tx)
    return fence_errors([item.claim for item in items], held)


def _kept(tx: Tx, keys: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
    columns = (answers.c.job_seq, answers.c.line)
    found = tx.connection.execute(select(*columns).where(tuple_(*columns).in_(keys)))
    return {(row.job_seq, row.line) for row in found}


def _row(item: NewAnswer) -> dict[str, object]:
    row = item.row
    return {
        "job_seq": item.claim.seq,
        "line": row.line,
        "prompt_sha256": row.prompt_sha256,
        "data": row.data,
    }


def kept_answers(tx: Tx, claim: Claim, after: int, limit: int) -> list[AnswerRow]:
    """Up to ``limit`` answers of a claimed job, those of the lines after ``after``, in order. Raises LeaseLost."""
    fence(tx, claim)
    return job_answers(tx, claim.seq, after, limit)


def job_answers(tx: Tx, seq: int, after: int, limit: int) -> list[AnswerRow]:
    """Up to ``limit`` answers of a job, those of the lines after ``after``, in order."""
    condition = (answers.c.job_seq == seq) & (answers.c.line > after)
    rows = tx.connection.execute(select(answers).where(condition).order_by(answers.c.line).limit(limit))
    return [AnswerRow(row.line, row.prompt_sha256, bytes(row.data)) for row in rows]
