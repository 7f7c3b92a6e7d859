"""The progress of running training jobs, from their newest steps."""

from sqlalchemy import select

from nsai_work.payloads import REWARD
from nsai_work.store.engine.database import Tx
from nsai_work.store.queries.jobs import seq_of
from nsai_work.store.records import TrainingProgress
from nsai_work.store.schema import runs, steps

MAX_MEASURED = 20
"""The number of newest steps from which the speed is computed."""


def training_progress(tx: Tx, job_id: str) -> TrainingProgress | None:
    """The progress of a training job; None before its first step. Raises JobNotFound."""
    seq = seq_of(tx, job_id)
    newest = select(
        steps.c.step, steps.c.loss, steps.c.tokens, steps.c.generation, steps.c.recorded_at, steps.c.metrics
    )
    current = newest.where(steps.c.job_seq == seq, steps.c.superseded_by.is_(None)).order_by(steps.c.step.desc())
    rows = tx.connection.execute(current.limit(MAX_MEASURED)).all()
    if not rows:
        return None
    last = rows[0]
    # a run that was restored begins anew: the time between its runs is no speed
    measured = [row for row in rows if row.generation == last.generation]
    seconds = (last.recorded_at - measured[-1].recorded_at).total_seconds()
    steps_per_s = tokens_per_s = None
    if seconds > 0:
        steps_per_s = (len(measured) - 1) / seconds
        tokens_per_s = sum(row.tokens for row in measured[:-1]) / seconds
    newest_run = select(runs.c.resume).where(runs.c.job_seq == seq).order_by(runs.c.generation.desc()).limit(1)
    resume = tx.connection.execute(newest_run).scalar()
    reward = last.metrics.get(REWARD) if isinstance(last.metrics, dict) else None
    return TrainingProgress(last.step, last.loss, steps_per_s, tokens_per_s, resume, reward)
