"""Log-probabilities of a reference model or a teacher, kept as compressed bytes, so that a job computes each of
them once."""

from sqlalchemy import select

from nsai_work.store.engine.bulk_write import insert_new
from nsai_work.store.engine.database import Tx
from nsai_work.store.journal.fences import fence
from nsai_work.store.records import Claim
from nsai_work.store.schema import references


def kept_references(tx: Tx, claim: Claim) -> dict[int, bytes]:
    """The kept log-probabilities of a job, by number."""
    fence(tx, claim)
    rows = tx.connection.execute(select(references).where(references.c.job_seq == claim.seq))
    return {row.number: bytes(row.data) for row in rows}


def kept_reference(tx: Tx, claim: Claim, number: int) -> bytes | None:
    """The kept log-probabilities of a number; None if there are none."""
    fence(tx, claim)
    rows = select(references.c.data).where(references.c.job_seq == claim.seq, references.c.number == number)
    data = tx.connection.execute(rows).scalar_one_or_none()
    return None if data is None else bytes(data)


def keep_reference(tx: Tx, claim: Claim, number: int, data: bytes) -> None:
    """Keep log-probabilities. Those that are kept already stay."""
    fence(tx, claim)
    insert_new(tx, references, [{"job_seq": claim.seq, "number": number, "data": data}])
