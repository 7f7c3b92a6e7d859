"""Intents and optimizer steps in the journal, written for many jobs at once.

Hundreds of runs in one process step at the same time; their writes are merged into a handful of statements. Each
item is fenced separately: a lost job fails its own item only.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue
from sqlalchemy import ColumnElement, Row, func, select, tuple_, update

from crucible.errors import CrucibleError
from crucible.training import Intent
from nsai_work.journal import StepRecord
from nsai_work.store.engine.bulk_write import BulkWrite, insert_new
from nsai_work.store.engine.database import Tx
from nsai_work.store.journal.fences import fence, fence_all, fence_errors
from nsai_work.store.journal.rows import read_row, unreadable
from nsai_work.store.lifecycle.events import plan_events
from nsai_work.store.records import Claim
from nsai_work.store.schema import intents, jobs, steps


@dataclass(frozen=True, slots=True)
class NewIntents:
    """Requests that a claim's owner is about to send."""

    claim: Claim
    generation: int
    intents: Sequence[Intent]


@dataclass(frozen=True, slots=True)
class StepDone:
    """The result of an optimizer step. ``progress`` is further data of its event."""

    claim: Claim
    record: StepRecord
    last_seq_id: int
    progress: Mapping[str, JsonValue] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, int, int]:
        """The primary key of the step's record."""
        return (self.claim.seq, self.record.step, self.record.generation)


def intend(tx: Tx, claim: Claim, generation: int, new: Sequence[Intent]) -> None:
    """Journal requests before they are sent. Raises LeaseLost."""
    (error,) = intend_many(tx, [NewIntents(claim, generation, new)])
    if error is not None:
        raise error


def intend_many(tx: Tx, items: Sequence[NewIntents]) -> list[CrucibleError | None]:
    """Journal requests before they are sent. Returns None for each item, or the LeaseLost to raise to its owner."""
    held = fence_all(tx, (item.claim for item in items))
    rows = [
        {
            "job_seq": item.claim.seq,
            "generation": item.generation,
            "last_seq_id": intent.last_seq_id,
            "intent": intent.model_dump(mode="json"),
            "closed": False,
            "intended_at": tx.now,
        }
        for item in items
        if (item.claim.seq, item.claim.fence) in held
        for intent in item.intents
    ]
    insert_new(tx, intents, rows)
    return fence_errors([item.claim for item in items], held)


def close_fenced_intent(tx: Tx, claim: Claim, generation: int, last_seq_id: int) -> None:
    """Close an intent of a job that ``fence`` has locked."""
    intent = (intents.c.job_seq == claim.seq) & (intents.c.generation == generation)
    tx.connection.execute(update(intents).where(intent, intents.c.last_seq_id == last_seq_id).values(closed=True))


def close_intent(tx: Tx, claim: Claim, generation: int, last_seq_id: int) -> None:
    """Close an intent without a step, such as that of a save."""
    fence(tx, claim)
    close_fenced_intent(tx, claim, generation, last_seq_id)


def last_closed_intent(tx: Tx, seq: int, generation: int) -> Intent | None:
    """The newest intent of a run whose result is recorded; None before the first."""
    condition = (intents.c.job_seq == seq) & (intents.c.generation == generation) & intents.c.closed.is_(True)
    newest = select(intents).where(condition).order_by(intents.c.last_seq_id.desc()).limit(1)
    row = tx.connection.execute(newest).first()
    return None if row is None else read_row(intents, row, Intent, row.intent)


def open_intents(tx: Tx, seq: int, generation: int, closed: Intent | None) -> list[Intent]:
    """The intents of a run after ``closed``, its newest one with a recorded result, in order."""
    condition = (intents.c.job_seq == seq) & (intents.c.generation == generation) & intents.c.closed.is_(False)
    if closed is not None:
        condition &= intents.c.last_seq_id > closed.last_seq_id
    rows = tx.connection.execute(select(intents).where(condition).order_by(intents.c.last_seq_id))
    return [read_row(intents, row, Intent, row.intent) for row in rows]


def last_seq_id(tx: Tx, seq: int, generation: int) -> int | None:
    """The highest journaled seq_id of a run; None before its first intent."""
    condition = (intents.c.job_seq == seq) & (intents.c.generation == generation)
    newest: object = tx.connection.execute(select(func.max(intents.c.last_seq_id)).where(condition)).scalar_one()
    if newest is None or isinstance(newest, int):
        return newest
    # SQLite takes any value, and text is greater than a number
    row = {"job_seq": seq, "generation": generation, "last_seq_id": newest}
    raise unreadable(intents, row, "last_seq_id: an integer is required")


def complete_steps(tx: Tx, done: Sequence[StepDone]) -> list[CrucibleError | None]:
    """Record steps and close their intents. Returns None for each item, or the LeaseLost to raise to its owner.

    A recorded step is left unchanged. A step beyond all earlier ones is progress, and resets the count of crashes.
    """
    held = fence_all(tx, (item.claim for item in done))
    owned = {item.key: item for item in reversed(done) if (item.claim.seq, item.claim.fence) in held}
    fresh = [owned[key] for key in sorted(owned.keys() - _recorded(tx, owned))]
    if fresh:
        bulk = BulkWrite()
        bulk.insert(steps, [_step_row(tx, item) for item in fresh])
        bulk.update(intents, [_closed_intent(item) for item in fresh], by=("job_seq", "generation", "last_seq_id"))
        bulk.update(jobs, _progress(fresh, held), by=("seq",))
        plan_events(tx, [(item.claim.seq, "step", _event_data(item)) for item in fresh], bulk)
        bulk.execute(tx)
    return fence_errors([item.claim for item in done], held)


def _recorded(tx: Tx, keys: Iterable[tuple[int, int, int]]) -> set[tuple[int, int, int]]:
    columns = (steps.c.job_seq, steps.c.step, steps.c.generation)
    rows = tx.connection.execute(select(*columns).where(tuple_(*columns).in_(sorted(keys))))
    return {(row.job_seq, row.step, row.generation) for row in rows}


def _closed_intent(item: StepDone) -> dict[str, Any]:
    return {
        "job_seq": item.claim.seq,
        "generation": item.record.generation,
        "last_seq_id": item.last_seq_id,
        "closed": True,
    }


def _progress(done: Sequence[StepDone], held: Mapping[tuple[int, int], int]) -> list[dict[str, Any]]:
    highest: dict[int, int] = {}
    for item in done:
        if item.record.step > held[(item.claim.seq, item.claim.fence)]:
            highest[item.claim.seq] = max(item.record.step, highest.get(item.claim.seq, 0))
    return [{"seq": seq, "progress": step, "crashes": 0} for seq, step in sorted(highest.items())]


def _step_row(tx: Tx, item: StepDone) -> dict[str, Any]:
    record = item.record
    return {
        "job_seq": item.claim.seq,
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


def _event_data(item: StepDone) -> dict[str, Any]:
    return item.record.model_dump(mode="json", exclude={"recorded_at"}) | dict(item.progress)


def job_steps(tx: Tx, seq: int) -> list[StepRecord]:
    """The steps that are not superseded, in order."""
    condition = (steps.c.job_seq == seq) & steps.c.superseded_by.is_(None)
    return [_step_of(row) for row in tx.connection.execute(select(steps).where(condition).order_by(steps.c.step))]


def selected_steps(tx: Tx, seq: int, condition: ColumnElement[bool], limit: int) -> list[StepRecord]:
    """The first steps that are not superseded and meet a condition, in order."""
    current = (steps.c.job_seq == seq) & steps.c.superseded_by.is_(None) & condition
    rows = tx.connection.execute(select(steps).where(current).order_by(steps.c.step).limit(limit))
    return [_step_of(row) for row in rows]


def superseded_steps(tx: Tx, seq: int) -> dict[int, StepRecord]:
    """The newest superseded record of each step, by step."""
    condition = (steps.c.job_seq == seq) & steps.c.superseded_by.is_not(None)
    rows = tx.connection.execute(select(steps).where(condition).order_by(steps.c.step, steps.c.generation))
    return {row.step: _step_of(row) for row in rows}


def _step_of(row: Row[Any]) -> StepRecord:
    values = dict(row._mapping)
    del values["job_seq"], values["superseded_by"]
    return read_row(steps, row, StepRecord, values)
