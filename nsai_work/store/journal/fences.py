"""Fencing of journal writes: they lock the job's row, and require that the claim still owns the job."""

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import select, tuple_

from crucible.errors import CrucibleError
from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.database import Tx
from nsai_work.store.lifecycle.finish import lease_lost
from nsai_work.store.records import Claim
from nsai_work.store.schema import jobs, status_in


def fence(tx: Tx, claim: Claim) -> None:
    """Lock the job, if the claim still owns it.

    The lock is held until the commit, so the job cannot be reclaimed between this check and the writes that follow.

    Raises:
        LeaseLost: the claim no longer owns the job.
    """
    owned = (jobs.c.seq == claim.seq) & (jobs.c.fence == claim.fence)
    statement = select(jobs.c.seq).where(owned, status_in(JobStatus.RUNNING)).with_for_update()
    if tx.connection.execute(statement).first() is None:
        raise lease_lost(claim)


def fence_all(tx: Tx, claims: Iterable[Claim]) -> dict[tuple[int, int], int]:
    """Lock the jobs that their claims still own. Returns the highest step of each so far, by (seq, fence)."""
    owned = {(claim.seq, claim.fence) for claim in claims}
    statement = (
        select(jobs.c.seq, jobs.c.fence, jobs.c.progress)
        .where(tuple_(jobs.c.seq, jobs.c.fence).in_(sorted(owned)), status_in(JobStatus.RUNNING))
        .order_by(jobs.c.seq)
        .with_for_update()
    )
    return {(row.seq, row.fence): row.progress for row in tx.connection.execute(statement)}


def fence_errors(claims: Sequence[Claim], held: Mapping[tuple[int, int], int]) -> list[CrucibleError | None]:
    """For each claim None if its job is among the held ones, else the LeaseLost to raise to its owner."""
    return [None if (claim.seq, claim.fence) in held else lease_lost(claim) for claim in claims]
