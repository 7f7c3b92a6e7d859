"""The progress of each sink of a job, and the steps and evaluations that it lacks."""

from sqlalchemy import func, select, update

from nsai_work.journal import EvaluationRecord, SinkMark, SinkState, StepRecord
from nsai_work.store.engine.bulk_write import insert_new
from nsai_work.store.engine.database import Tx
from nsai_work.store.journal.evaluations import selected_evaluations
from nsai_work.store.journal.fences import fence
from nsai_work.store.journal.rows import read_row
from nsai_work.store.journal.runs import job_runs
from nsai_work.store.journal.steps import selected_steps
from nsai_work.store.records import Claim
from nsai_work.store.schema import evaluations, sink_marks, steps


def sink_state(tx: Tx, claim: Claim, sink: str) -> SinkState:
    """The mark of a sink, that of its begin if there is none, with the job's runs and their recorded steps."""
    fence(tx, claim)
    of_sink = (sink_marks.c.job_seq == claim.seq) & (sink_marks.c.sink == sink)
    row = tx.connection.execute(select(sink_marks).where(of_sink)).first()
    counts = select(steps.c.generation, func.count()).where(steps.c.job_seq == claim.seq)
    found = tx.connection.execute(counts.group_by(steps.c.generation))
    mark = SinkMark()
    if row is not None:
        values = {name: value for name, value in row._mapping.items() if name in SinkMark.model_fields}
        mark = read_row(sink_marks, row, SinkMark, values)
    return SinkState(mark, job_runs(tx, claim.seq), {row[0]: row[1] for row in found})


def after_mark(tx: Tx, claim: Claim, mark: SinkMark, limit: int) -> tuple[list[StepRecord], list[EvaluationRecord]]:
    """The first current steps and evaluations after a mark, at most ``limit`` of each, of its generations."""
    fence(tx, claim)
    of_steps = (steps.c.step > mark.step) & (steps.c.generation <= mark.generation)
    of_evaluations = (evaluations.c.step > mark.evaluated) & (evaluations.c.generation <= mark.generation)
    return (
        selected_steps(tx, claim.seq, of_steps, limit),
        selected_evaluations(tx, claim.seq, of_evaluations, limit),
    )


def advance_sink(tx: Tx, claim: Claim, sink: str, mark: SinkMark) -> None:
    """Record how far a sink is."""
    fence(tx, claim)
    values = mark.model_dump(mode="json")
    insert_new(tx, sink_marks, [{"job_seq": claim.seq, "sink": sink, **values}])
    of_sink = (sink_marks.c.job_seq == claim.seq) & (sink_marks.c.sink == sink)
    tx.connection.execute(update(sink_marks).where(of_sink).values(**values))
