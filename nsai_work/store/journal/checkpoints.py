"""Checkpoints in the journal: saved in two phases, promoted, deleted."""

from typing import Any

from sqlalchemy import Row, Select, func, select, update

from crucible.errors import InvalidRequest, NotFound
from crucible.training import Intent
from nsai_work.journal import CheckpointRecord, CheckpointStatus
from nsai_work.store.engine.bulk_write import insert_new
from nsai_work.store.engine.database import Tx
from nsai_work.store.journal.fences import fence
from nsai_work.store.journal.rows import read_row
from nsai_work.store.journal.steps import close_fenced_intent, intend
from nsai_work.store.lifecycle.events import append_events
from nsai_work.store.records import Claim
from nsai_work.store.schema import checkpoints, jobs


def job_checkpoints(tx: Tx, seq: int) -> list[CheckpointRecord]:
    """All checkpoints of a job, deleted ones included, in order of their steps."""
    order = (checkpoints.c.step, checkpoints.c.generation, checkpoints.c.name)
    rows = tx.connection.execute(select(checkpoints).where(checkpoints.c.job_seq == seq).order_by(*order))
    return [_checkpoint_of(row) for row in rows]


def newest_checkpoints(tx: Tx, seq: int, *, limit: int) -> tuple[list[CheckpointRecord], int]:
    """The checkpoints of a job that were not deleted, the newest first, and the number of all that it ever had."""
    own = checkpoints.c.job_seq == seq
    number = tx.connection.execute(select(func.count()).select_from(checkpoints).where(own)).scalar() or 0
    gone = (str(CheckpointStatus.DELETING), str(CheckpointStatus.DELETED))
    order = (checkpoints.c.step.desc(), checkpoints.c.generation.desc())
    rows = tx.connection.execute(
        select(checkpoints).where(own, checkpoints.c.status.not_in(gone)).order_by(*order).limit(limit)
    )
    return [_checkpoint_of(row) for row in rows], number


def _checkpoint_of(row: Row[Any]) -> CheckpointRecord:
    values = dict(row._mapping)
    del values["job_seq"]
    return read_row(checkpoints, row, CheckpointRecord, values)


def plan_checkpoint(tx: Tx, claim: Claim, checkpoint: CheckpointRecord, intent: Intent) -> None:
    """First phase of a save: record the pending checkpoint and the intent."""
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


def _only(tx: Tx, statement: Select[Any], name: str) -> Row[Any]:
    row = tx.connection.execute(statement).first()
    if row is None:
        raise NotFound(f"the job has no checkpoint {name!r}", details={"name": name})
    return row


def _update_checkpoint(tx: Tx, row: Row[Any], **values: object) -> None:
    checkpoint = (checkpoints.c.job_seq == row.job_seq) & (checkpoints.c.name == row.name)
    tx.connection.execute(update(checkpoints).where(checkpoint).values(values))


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
    """Second phase of a save: record that the checkpoint exists and is verified. Idempotent."""
    fence(tx, claim)
    row = _locked_checkpoint(tx, claim.seq, name)
    close_fenced_intent(tx, claim, row.generation, last_seq_id)
    if row.status == CheckpointStatus.COMMITTED and row.path == path:
        return
    metric = row.metric if metric is None else metric
    values = {"path": path, "size_bytes": size_bytes, "sampler_path": sampler_path or row.sampler_path}
    _update_checkpoint(tx, row, status=str(CheckpointStatus.COMMITTED), metric=metric, **values)
    data = {"name": name, "step": row.step, "generation": row.generation, "path": path, "metric": metric}
    append_events(tx, [(claim.seq, "checkpoint.committed", data)])


def set_sampler_path(tx: Tx, claim: Claim, name: str, sampler_path: str) -> None:
    """Record the path of a checkpoint's sampling weights."""
    fence(tx, claim)
    _update_checkpoint(tx, _locked_checkpoint(tx, claim.seq, name), sampler_path=sampler_path)


def mark_checkpoint(
    tx: Tx, claim: Claim, name: str, status: CheckpointStatus, note: str | None = None
) -> CheckpointRecord:
    """Set a checkpoint's status to deleting, deleted or lost, and return it. ``note`` is the reason, which the
    event contains too.

    Raises:
        InvalidRequest: the checkpoint is promoted, and so never deleted.
    """
    fence(tx, claim)
    row = _locked_checkpoint(tx, claim.seq, name)
    if row.promoted and status is CheckpointStatus.DELETING:
        raise InvalidRequest.of("checkpoint", name, "it is promoted, which keeps it for good")
    reason = row.note if note is None else note
    _update_checkpoint(tx, row, status=str(status), note=reason)
    data = {"name": name, "step": row.step, "path": row.path, "reason": reason}
    append_events(tx, [(claim.seq, f"checkpoint.{status}", data)])
    return _checkpoint_of(_locked_checkpoint(tx, claim.seq, name))


def promote(tx: Tx, seq: int, name: str) -> CheckpointRecord:
    """Promote a checkpoint, which is then never deleted. Needs no claim, and works while the job runs.

    Raises:
        NotFound: the job has no such checkpoint.
        InvalidRequest: the checkpoint is not committed.
    """
    tx.connection.execute(select(jobs.c.seq).where(jobs.c.seq == seq).with_for_update())
    row = _locked_checkpoint(tx, seq, name)
    _require_committed(row, "promoted")
    if not row.promoted:
        _update_checkpoint(tx, row, promoted=True, expires_at=None)
        append_events(tx, [(seq, "checkpoint.promoted", {"name": name, "step": row.step})])
    return _checkpoint_of(_locked_checkpoint(tx, seq, name))


def keep_sampler_path(tx: Tx, seq: int, name: str, sampler_path: str) -> str:
    """Record sampling weights that were saved from a checkpoint's training state, unless it has some. Returns the
    path that it has now. Needs no claim, and works while the job runs.

    Raises:
        NotFound: the job has no such checkpoint.
        InvalidRequest: the checkpoint is not committed.
    """
    tx.connection.execute(select(jobs.c.seq).where(jobs.c.seq == seq).with_for_update())
    row = _locked_checkpoint(tx, seq, name)
    _require_committed(row, "sampled from")
    if row.sampler_path is not None:
        return str(row.sampler_path)
    _update_checkpoint(tx, row, sampler_path=sampler_path)
    append_events(tx, [(seq, "checkpoint.sampler_saved", {"name": name, "step": row.step, "path": sampler_path})])
    return sampler_path


def promotable(tx: Tx, seq: int, name: str) -> CheckpointRecord:
    """The checkpoint that ``promote`` would promote, unchanged. Raises as ``promote``."""
    row = _only(tx, _named(seq, name), name)
    _require_committed(row, "promoted")
    return _checkpoint_of(row)


def _require_committed(row: Row[Any], use: str) -> None:
    if row.status != CheckpointStatus.COMMITTED:
        raise InvalidRequest.of("checkpoint", row.name, f"it is {row.status}; only a committed one can be {use}")
