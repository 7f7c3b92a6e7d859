"""The reason why a running job waits."""

from typing import Final

from pydantic import JsonValue
from sqlalchemy import update

from nsai_work.store.engine.database import Tx
from nsai_work.store.journal.fences import fence
from nsai_work.store.lifecycle.events import append_events
from nsai_work.store.records import Claim
from nsai_work.store.schema import jobs

WAIT_STARTED: Final = "wait.started"
WAIT_ENDED: Final = "wait.ended"


def set_wait(
    tx: Tx, claim: Claim, reason: str | None, event: tuple[str, dict[str, JsonValue]] | None = None
) -> None:
    """Record why a running job waits, or with None that it goes on; and an event about that, if given.

    Raises:
        LeaseLost: the claim no longer owns the job.
    """
    fence(tx, claim)
    tx.connection.execute(update(jobs).where(jobs.c.seq == claim.seq).values(wait_reason=reason))
    if event is not None:
        append_events(tx, [(claim.seq, *event)])
