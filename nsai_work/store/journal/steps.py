"""The journal's hot path: intents and results of optimizer steps, of many jobs at a time.

Hundreds of runs in one process step at the same moments; what they have to write goes into a handful of statements.
Each item is fenced for itself: a job that has been lost costs its own item and no other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue
from sqlalchemy import select, tuple_

from crucible.errors import CrucibleError
from crucible.training import Intent
from nsai_work.journal import StepRecord
from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.bulk_write import BulkWrite, insert_new
from nsai_work.store.engine.database import Tx
from nsai_work.store.lifecycle.finish import lease_lost
from nsai_work.store.lifecycle.transitions import plan_events
from nsai_work.store.records import Claim
from nsai_work.store.schema import intents, jobs, status_in, steps


@dataclass(frozen=True, slots=True)
class NewIntents:
    """What one owner is about to send."""

    claim: Claim
    generation: int
    intents: Sequence[Intent]


@dataclass(frozen=True, slots=True)
class StepDone:
    """One optimizer step's result. ``progress`` goes into its event beside the record."""

    claim: Claim
    record: StepRecord
    last_seq_id: int
    progress: Mapping[str, JsonValue] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, int, int]:
        """What makes a step's record one."""
        return (self.claim.seq, self.record.step, self.record.generation)


def fence_all(tx: Tx, claims: Iterable[Claim]) -> dict[tuple[int, int], int]:
    """Hold those jobs for this transaction that are still their claims'; by (seq, fence), how far each
    has ever come."""
    wanted = {(claim.seq, claim.fence) for claim in claims}
    statement = (
        select(jobs.c.seq, jobs.c.fence, jobs.c.progress)
        .where(tuple_(jobs.c.seq, jobs.c.fence).in_(sorted(wanted)), status_in(JobStatus.RUNNING))
        .order_by(jobs.c.seq)
        .with_for_update()
    )
    return {(row.seq, row.fence): row.progress for row in tx.connection.execute(statement)}


def _rulings(claims: Sequence[Claim], held: Mapping[tuple[int, int], int]) -> list[CrucibleError | None]:
    return [None if (claim.seq, claim.fence) in held else lease_lost(claim) for claim in claims]


def intend_many(tx: Tx, news: Sequence[NewIntents]) -> list[CrucibleError | None]:
    """Journal what is about to be sent; for each None, or the LeaseLost that its owner must obey."""
    held = fence_all(tx, (new.claim for new in news))
    rows = [
        {
            "job_seq": new.claim.seq,
            "generation": new.generation,
            "last_seq_id": intent.last_seq_id,
            "intent": intent.model_dump(mode="json"),
            "closed": False,
            "intended_at": tx.now,
        }
        for new in news
        if (new.claim.seq, new.claim.fence) in held
        for intent in new.intents
    ]
    insert_new(tx, intents, rows)
    return _rulings([new.claim for new in news], held)


def complete_steps(tx: Tx, done: Sequence[StepDone]) -> list[CrucibleError | None]:
    """Record steps and close their intents; for each None, or the LeaseLost that its owner must obey.

    A step that is recorded already is left as it is. One further than any before it is progress, and clears the
    count of crashes.
    """
    held = fence_all(tx, (one.claim for one in done))
    mine = {one.key: one for one in reversed(done) if (one.claim.seq, one.claim.fence) in held}
    fresh = [mine[key] for key in sorted(mine.keys() - _recorded(tx, mine))]
    if fresh:
        writes = BulkWrite()
        writes.insert(steps, [_step_row(tx, one) for one in fresh])
        writes.update(intents, [_closed(one) for one in fresh], by=("job_seq", "generation", "last_seq_id"))
        writes.update(jobs, _progress(fresh, held), by=("seq",))
        plan_events(tx, [(one.claim.seq, "step", _event_data(one)) for one in fresh], writes)
        writes.run(tx)
    return _rulings([one.claim for one in done], held)


def _recorded(tx: Tx, keys: Iterable[tuple[int, int, int]]) -> set[tuple[int, int, int]]:
    columns = (steps.c.job_seq, steps.c.step, steps.c.generation)
    rows = tx.connection.execute(select(*columns).where(tuple_(*columns).in_(sorted(keys))))
    return {(row.job_seq, row.step, row.generation) for row in rows}


def _closed(one: StepDone) -> dict[str, Any]:
    return {
        "job_seq": one.claim.seq,
        "generation": one.record.generation,
        "last_seq_id": one.last_seq_id,
        "closed": True,
    }


def _progress(done: Sequence[StepDone], held: Mapping[tuple[int, int], int]) -> list[dict[str, Any]]:
    furthest: dict[int, int] = {}
    for one in done:
        if one.record.step > held[(one.claim.seq, one.claim.fence)]:
            furthest[one.claim.seq] = max(one.record.step, furthest.get(one.claim.seq, 0))
    return [{"seq": seq, "progress": step, "crashes": 0} for seq, step in sorted(furthest.items())]


def _step_row(tx: Tx, one: StepDone) -> dict[str, Any]:
    record = one.record
    return {
        "job_seq": one.claim.seq,
        "step": record.step,
        "generation": record.generation,
        "superseded_by": None,
        "epoch": record.epoch,
        "loss": record.loss,
        "tokens": record.tokens,
        "learning_rate": record.learning_rate,
        "metrics": dict(record.metrics),
        "recorded_at": record.recorded_at or tx.now,
    }


def _event_data(one: StepDone) -> dict[str, Any]:
    return one.record.model_dump(mode="json", exclude={"recorded_at"}) | dict(one.progress)
