"""Evaluations in the journal."""

from typing import Any

from sqlalchemy import ColumnElement, Row, select, update

from nsai_work.journal import EvaluationRecord, RemoteRun
from nsai_work.store.engine.bulk_write import insert_new
from nsai_work.store.engine.database import Tx
from nsai_work.store.journal.fences import fence
from nsai_work.store.journal.rows import read_row
from nsai_work.store.journal.steps import close_fenced_intent
from nsai_work.store.lifecycle.events import append_events
from nsai_work.store.records import Claim
from nsai_work.store.schema import evaluations


def complete_evaluation(tx: Tx, claim: Claim, record: EvaluationRecord, last_seq_id: int) -> None:
    """Record an evaluation and close the intent of its last forward pass. A recorded one is left unchanged."""
    fence(tx, claim)
    key = _of(claim.seq) & (evaluations.c.step == record.step) & (evaluations.c.generation == record.generation)
    if tx.connection.execute(select(evaluations.c.step).where(key)).first() is not None:
        return
    row = record.model_dump() | {"job_seq": claim.seq, "recorded_at": record.recorded_at or tx.now}
    insert_new(tx, evaluations, [row])
    close_fenced_intent(tx, claim, record.generation, last_seq_id)
    data = record.model_dump(mode="json", exclude={"recorded_at"})
    append_events(tx, [(claim.seq, "evaluation", data)])


def supersede_evaluations(tx: Tx, claim: Claim, run: RemoteRun) -> None:
    """Supersede the evaluations that a new run repeats. A run that starts anew evaluates step 0 again too."""
    first = 0 if run.restored_from is None else run.from_step + 1
    repeated = _of(claim.seq) & (evaluations.c.generation < run.generation) & (evaluations.c.step >= first)
    current = evaluations.c.superseded_by.is_(None)
    tx.connection.execute(update(evaluations).where(repeated, current).values(superseded_by=run.generation))


def job_evaluations(tx: Tx, seq: int) -> list[EvaluationRecord]:
    """The evaluations that are not superseded, in order."""
    return _select(tx, _of(seq) & evaluations.c.superseded_by.is_(None))


def selected_evaluations(tx: Tx, seq: int, condition: ColumnElement[bool], limit: int) -> list[EvaluationRecord]:
    """The first evaluations that are not superseded and meet a condition, in order."""
    return _select(tx, _of(seq) & evaluations.c.superseded_by.is_(None) & condition, limit)


def superseded_evaluations(tx: Tx, seq: int) -> dict[int, EvaluationRecord]:
    """The newest superseded evaluation of each step, by step."""
    return {record.step: record for record in _select(tx, _of(seq) & evaluations.c.superseded_by.is_not(None))}


def _of(seq: int) -> ColumnElement[bool]:
    return evaluations.c.job_seq == seq


def _select(tx: Tx, condition: ColumnElement[bool], limit: int | None = None) -> list[EvaluationRecord]:
    order = (evaluations.c.step, evaluations.c.generation)
    rows = tx.connection.execute(select(evaluations).where(condition).order_by(*order).limit(limit))
    return [_record_of(row) for row in rows]


def _record_of(row: Row[Any]) -> EvaluationRecord:
    values = dict(row._mapping)
    del values["job_seq"], values["superseded_by"]
    return read_row(evaluations, row, EvaluationRecord, values)
