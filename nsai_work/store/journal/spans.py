"""The spans of attempts, by which the traces of a job's attempts are linked."""

from sqlalchemy import select, update

from nsai_work.store.engine.database import Tx
from nsai_work.store.records import Claim
from nsai_work.store.schema import attempts


def record_span(tx: Tx, claim: Claim, span: str) -> str | None:
    """Record the span of a claim's attempt, a W3C traceparent; returns that of the newest attempt before it."""
    own = (attempts.c.job_seq == claim.seq) & (attempts.c.fence == claim.fence)
    tx.connection.execute(update(attempts).where(own).values(span=span))
    if claim.fence == 1:
        return None
    before = (
        select(attempts.c.span)
        .where(attempts.c.job_seq == claim.seq, attempts.c.fence < claim.fence, attempts.c.span.is_not(None))
        .order_by(attempts.c.fence.desc())
        .limit(1)
    )
    return tx.connection.execute(before).scalar()
