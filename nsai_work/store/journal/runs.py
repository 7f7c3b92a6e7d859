"""The run journal of training jobs, written by owners under the fence of their claim's fence."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue
from sqlalchemy import Row, Select, func, select, update

from crucible.errors import InvalidRequest, NotFound
from crucible.training import Intent, RunRef
from nsai_work.journal import (
    CheckpointRecord,
    CheckpointStatus,
    JournalSnapshot,
    RemoteRun,
    ResumeMode,
    StepRecord,
)
from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.bulk_write import insert_new
from nsai_work.store.engine.database import Tx
from nsai_work.store.journal.steps import NewIntents, StepDone, complete_steps, intend_many
from nsai_work.store.lifecycle.finish import lease_lost
from nsai_work.store.lifecycle.transitions import append_events
from nsai_work.store.records import Claim
from nsai_work.store.schema import checkpoints, intents, jobs, runs, status_in, steps


def fence(tx: Tx, claim: Claim) -> None:
    """Hold the job for this transaction, if it is still the claim's.

    The row stays locked until the commit: nobody can take the job over between this check and the writes after.

    Raises:
        LeaseLost: another owner has it.
    """
    mine = (jobs.c.seq == claim.seq) & (jobs.c.fence == claim.fence)
    statement = select(jobs.c.seq).where(mine, status_in(JobStatus.RUNNING)).with_for_update()
    if tx.connection.execute(statement).first() is None:
        raise lease_lost(claim)


def snapshot(tx: Tx, claim: Claim) -> JournalSnapshot:
    """All that the journal holds, for an owner that begins."""
    fence(tx, claim)
    lineage = job_runs(tx, claim.seq)
    return JournalSnapshot(
        runs=lineage,
        steps=job_steps(tx, claim.seq),
        superseded=_superseded(tx, claim.seq),
        open_intents=_open_intents(tx, claim.seq, lineage[-1].generation) if lineage else [],
        checkpoints=job_checkpoints(tx, claim.seq),
        last_seq_id=_last_seq_id(tx, claim.seq, lineage[-1].generation) if lineage else None,
    )


def job_runs(tx: Tx, seq: int) -> list[RemoteRun]:
    """The remote runs of a job, in order."""
    rows = tx.connection.execute(select(runs).where(runs.c.job_seq == seq).order_by(runs.c.generation))
    return [
        RemoteRun(
            generation=row.generation,
            ref=RunRef.model_validate(row.ref),
            from_step=row.from_step,
            first_seq_id=row.first_seq_id,
            resume=ResumeMode(row.resume),
            restored_from=row.restored_from,
            end_reason=row.end_reason,
        )
        for row in rows
    ]


def job_steps(tx: Tx, seq: int) -> list[StepRecord]:
    """The steps that count, in order."""
    mine = (steps.c.job_seq == seq) & steps.c.superseded_by.is_(None)
    return [_step(row) for row in tx.connection.execute(select(steps).where(mine).order_by(steps.c.step))]


def _step(row: Row[Any]) -> StepRecord:
    return StepRecord(
        step=row.step,
        epoch=row.epoch,
        loss=row.loss,
        tokens=row.tokens,
        learning_rate=row.learning_rate,
        generation=row.generation,
        metrics=row.metrics,
        recorded_at=row.recorded_at,
    )


def _superseded(tx: Tx, seq: int) -> dict[int, StepRecord]:
    mine = (steps.c.job_seq == seq) & steps.c.superseded_by.is_not(None)
    rows = tx.connection.execute(select(steps).where(mine).order_by(steps.c.step, steps.c.generation))
    return {row.step: _step(row) for row in rows}


def _open_intents(tx: Tx, seq: int, generation: int) -> list[Intent]:
    mine = (intents.c.job_seq == seq) & (intents.c.generation == generation) & intents.c.closed.is_(False)
    rows = tx.connection.execute(select(intents.c.intent).where(mine).order_by(intents.c.last_seq_id))
    return [Intent.model_validate(value) for value in rows.scalars()]


def _last_seq_id(tx: Tx, seq: int, generation: int) -> int | None:
    mine = (intents.c.job_seq == seq) & (intents.c.generation == generation)
    newest: int | None = tx.connection.execute(select(func.max(intents.c.last_seq_id)).where(mine)).scalar_one()
    return newest


def job_checkpoints(tx: Tx, seq: int) -> list[CheckpointRecord]:
    """All checkpoints of a job, also those that are gone, in order of their steps."""
    order = (checkpoints.c.step, checkpoints.c.generation, checkpoints.c.name)
    rows = tx.connection.execute(select(checkpoints).where(checkpoints.c.job_seq == seq).order_by(*order))
    return [_checkpoint(row) for row in rows]


def _checkpoint(row: Row[Any]) -> CheckpointRecord:
    values = dict(row._mapping)
    del values["job_seq"]
    return CheckpointRecord.model_validate(values)


def begin_run(tx: Tx, claim: Claim, run: RemoteRun) -> None:
    """Enter a new remote run; later steps of older runs are superseded and their intents closed."""
    fence(tx, claim)
    row = {
        **run.model_dump(mode="json"),
        "job_seq": claim.seq,
        "started_at": tx.now,
    }
    insert_new(tx, runs, [row])
    older = (steps.c.job_seq == claim.seq) & (steps.c.generation < run.generation)
    overtaken = older & (steps.c.step > run.from_step) & steps.c.superseded_by.is_(None)
    tx.connection.execute(update(steps).where(overtaken).values(superseded_by=run.generation))
    stale = (intents.c.job_seq == claim.seq) & (intents.c.generation < run.generation)
    tx.connection.execute(update(intents).where(stale, intents.c.closed.is_(False)).values(closed=True))
    data = {
        "generation": run.generation,
        "run_id": run.ref.run_id,
        "from_step": run.from_step,
        "resume": str(run.resume),
        "restored_from": run.restored_from,
    }
    append_events(tx, [(claim.seq, "run.began", data)])


def end_run(tx: Tx, claim: Claim, generation: int, reason: str) -> None:
    """Say why a remote run no longer counts."""
    fence(tx, claim)
    this = (runs.c.job_seq == claim.seq) & (runs.c.generation == generation)
    tx.connection.execute(update(runs).where(this).values(end_reason=reason))
    append_events(tx, [(claim.seq, "run.ended", {"generation": generation, "reason": reason})])


def set_resume(tx: Tx, claim: Claim, generation: int, resume: ResumeMode) -> None:
    """Correct how a run resumed."""
    fence(tx, claim)
    this = (runs.c.job_seq == claim.seq) & (runs.c.generation == generation)
    tx.connection.execute(update(runs).where(this).values(resume=str(resume)))
    append_events(tx, [(claim.seq, "run.resumed", {"generation": generation, "resume": str(resume)})])


def intend(tx: Tx, claim: Claim, generation: int, new: Sequence[Intent]) -> None:
    """Journal what is about to be sent."""
    (ruling,) = intend_many(tx, [NewIntents(claim, generation, new)])
    if ruling is not None:
        raise ruling


def _close(tx: Tx, claim: Claim, generation: int, last_seq_id: int) -> None:
    this = (intents.c.job_seq == claim.seq) & (intents.c.generation == generation)
    tx.connection.execute(update(intents).where(this, intents.c.last_seq_id == last_seq_id).values(closed=True))


def close_intent(tx: Tx, claim: Claim, generation: int, last_seq_id: int) -> None:
    """Close the intent of a save."""
    fence(tx, claim)
    _close(tx, claim, generation, last_seq_id)


def complete_step(
    tx: Tx, claim: Claim, record: StepRecord, last_seq_id: int, progress: Mapping[str, JsonValue] | None = None
) -> None:
    """Record a step and close its intent. A step further than any before is progress, and clears the crashes."""
    (ruling,) = complete_steps(tx, [StepDone(claim, record, last_seq_id, progress or {})])
    if ruling is not None:
        raise ruling


def append_event(tx: Tx, claim: Claim, name: str, data: dict[str, JsonValue]) -> None:
    """Append to the job's log."""
    fence(tx, claim)
    append_events(tx, [(claim.seq, name, data)])


def plan_checkpoint(tx: Tx, claim: Claim, checkpoint: CheckpointRecord, intent: Intent) -> None:
    """First phase of a save: the pending row and the intent."""
    intend(tx, claim, checkpoint.generation, [intent])
    row = checkpoint.model_dump() | {
        "job_seq": claim.seq,
        "status": str(checkpoint.status),
        "created_at": checkpoint.created_at or tx.now,
    }
    insert_new(tx, checkpoints, [row])


def _locked_checkpoint(tx: Tx, seq: int, name: str) -> Row[Any]:
    return _only(tx, _named(seq, name).with_for_update(), name)


def _named(seq: int, name: str) -> Select[Any]:
    return select(checkpoints).where(checkpoints.c.job_seq == seq, checkpoints.c.name == name)


def _only(tx: Tx, wanted: Select[Any], name: str) -> Row[Any]:
    row = tx.connection.execute(wanted).first()
    if row is None:
        raise NotFound(f"the job has no checkpoint {name!r}", details={"name": name})
    return row


def _update_checkpoint(tx: Tx, row: Row[Any], **values: object) -> None:
    this = (checkpoints.c.job_seq == row.job_seq) & (checkpoints.c.name == row.name)
    tx.connection.execute(update(checkpoints).where(this).values(values))


def commit_checkpoint(
    tx: Tx,
    claim: Claim,
    name: str,
    *,
    path: str,
    last_seq_id: int,
    size_bytes: int | None = None,
    sampler_path: str | None = None,
    metric: float | None = None,
) -> None:
    """Second phase of a save: it is there and verified. Committing it again changes nothing."""
    fence(tx, claim)
    row = _locked_checkpoint(tx, claim.seq, name)
    _close(tx, claim, row.generation, last_seq_id)
    if row.status == CheckpointStatus.COMMITTED and row.path == path:
        return
    metric = row.metric if metric is None else metric
    values = {"path": path, "size_bytes": size_bytes, "sampler_path": sampler_path or row.sampler_path}
    _update_checkpoint(tx, row, status=str(CheckpointStatus.COMMITTED), metric=metric, **values)
    data = {"name": name, "step": row.step, "generation": row.generation, "path": path, "metric": metric}
    append_events(tx, [(claim.seq, "checkpoint.committed", data)])


def set_sampler_path(tx: Tx, claim: Claim, name: str, sampler_path: str) -> None:
    """Say where a checkpoint's sampling weights lie."""
    fence(tx, claim)
    _update_checkpoint(tx, _locked_checkpoint(tx, claim.seq, name), sampler_path=sampler_path)


def mark_checkpoint(tx: Tx, claim: Claim, name: str, status: CheckpointStatus, note: str | None = None) -> None:
    """Move a checkpoint to deleting, deleted or lost; ``note`` is the reason, and the event says it.

    Raises:
        InvalidRequest: it is promoted, and so never deleted.
    """
    fence(tx, claim)
    row = _locked_checkpoint(tx, claim.seq, name)
    if row.promoted and status is CheckpointStatus.DELETING:
        raise InvalidRequest.of("checkpoint", name, "it is promoted, which keeps it for good")
    reason = row.note if note is None else note
    _update_checkpoint(tx, row, status=str(status), note=reason)
    data = {"name": name, "step": row.step, "path": row.path, "reason": reason}
    append_events(tx, [(claim.seq, f"checkpoint.{status}", data)])


def promote(tx: Tx, seq: int, name: str) -> CheckpointRecord:
    """Keep a checkpoint for good. Needs no claim: it may be asked of any job, also one that runs.

    Raises:
        NotFound: the job has no such checkpoint.
        InvalidRequest: it is not there any more, or not there yet.
    """
    tx.connection.execute(select(jobs.c.seq).where(jobs.c.seq == seq).with_for_update())
    row = _locked_checkpoint(tx, seq, name)
    _require_committed(row)
    if not row.promoted:
        _update_checkpoint(tx, row, promoted=True, expires_at=None)
        append_events(tx, [(seq, "checkpoint.promoted", {"name": name, "step": row.step})])
    return _checkpoint(_locked_checkpoint(tx, seq, name))


def promotable(tx: Tx, seq: int, name: str) -> CheckpointRecord:
    """The checkpoint that ``promote`` would keep, as it is now. Raises as ``promote``; nothing is changed."""
    row = _only(tx, _named(seq, name), name)
    _require_committed(row)
    return _checkpoint(row)


def _require_committed(row: Row[Any]) -> None:
    if row.status != CheckpointStatus.COMMITTED:
        raise InvalidRequest.of("checkpoint", row.name, f"it is {row.status}; only a committed one can be promoted")
