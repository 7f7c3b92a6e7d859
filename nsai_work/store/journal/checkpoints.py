"""Checkpoints in the journal: saved in two phases, promoted, deleted."""

from datetime import timedelta
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


def plan_checkpoint(
    tx: Tx, claim: Claim, checkpoint: CheckpointRecord, intent: Intent, *, ttl_s: int | None = None
) -> None:
    """First phase of a save: record the pending checkpoint, with its times, and the intent."""
    intend(tx, claim, checkpoint.generation, [intent])
    row = checkpoint.model_dump() | {
        "job_seq": claim.seq,
        "status": str(checkpoint.status),
        "created_at": tx.now,
        "expires_at": None if ttl_s is None else tx.now + timedelta(seconds=ttl_s),
    }
    insert_new(tx, checkpoints, [row])


def _locked_checkpoint(tx: Tx, seq: int, name: str) -> Row[Any]:
    return _only(tx, _named(seq, name).with_for_update(), name)


def _locked_committed(tx: Tx, seq: int, name: str, use: str) -> Row[Any]:
    """Lock a job and its committed checkpoint, for who has no claim. Raises NotFound, and InvalidRequest."""
    tx.connection.execute(select(jobs.c.seq).where(jobs.c.seq == seq).with_for_update())
    return _committed(_locked_checkpoint(tx, seq, name), use)


def _named(seq: int, name: str) -> Select[Any]:
    return select(checkpoints).where(checkpoints.c.job_seq == seq, checkpoints.c.name == name)


def _only(tx: Tx, statement: Select[Any], name: str) -> Row[Any]:
    row = tx.connection.execute(statement).first()
    if row is None:
        raise NotFound(f"the job has no checkpoint {name!r}", details={"name": name})
    return row


def _updated(tx: Tx, row: Row[Any], **values: object) -> CheckpointRecord:
    """Change columns of a locked checkpoint. Returns what it is then."""
    checkpoint = (checkpoints.c.job_seq == row.job_seq) & (checkpoints.c.name == row.name)
    changed = update(checkpoints).where(checkpoint).values(values).returning(checkpoints)
    return _checkpoint_of(tx.connection.execute(changed).one())


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
    _updated(tx, row, status=str(CheckpointStatus.COMMITTED), metric=metric, **values)
    data = {"name": name, "step": row.step, "generation": row.generation, "path": path, "metric": metric}
    append_events(tx, [(claim.seq, "checkpoint.committed", data)])


def set_sampler_path(tx: Tx, claim: Claim, name: str, sampler_path: str) -> None:
    """Record the path of a checkpoint's sampling weights."""
    fence(tx, claim)
    _updated(tx, _locked_checkpoint(tx, claim.seq, name), sampler_path=sampler_path)


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
    data = {"name": name, "step": row.step, "path": row.path, "reason": reason}
    append_events(tx, [(claim.seq, f"checkpoint.{status}", data)])
    return _updated(tx, row, status=str(status), note=reason)


def promote(tx: Tx, seq: int, name: str) -> CheckpointRecord:
    """Promote a checkpoint, which is then never deleted. Needs no claim, and works while the job runs.

    Raises:
        NotFound: the job has no such checkpoint.
        InvalidRequest: the checkpoint is not committed.
    """
    row = _locked_committed(tx, seq, name, "promoted")
    if row.promoted:
        return _checkpoint_of(row)
    append_events(tx, [(seq, "checkpoint.promoted", {"name": name, "step": row.step})])
    return _updated(tx, row, promoted=True, expires_at=None)


def keep_sampler_path(tx: Tx, seq: int, name: str, sampler_path: str) -> str:
    """Record sampling weights that were saved from a checkpoint's training state, unless it has some. Returns the
    path that it has now. Needs no claim, and works while the job runs.

    Raises:
        NotFound: the job has no such checkpoint.
        InvalidRequest: the checkpoint is not committed.
    """
    row = _locked_committed(tx, seq, name, "sampled from")
    if row.sampler_path is not None:
        return str(row.sampler_path)
    _updated(tx, row, sampler_path=sampler_path)
    append_events(tx, [(seq, "checkpoint.sampler_saved", {"name": name, "step": row.step, "path": sampler_path})])
    return sampler_path


def promotable(tx: Tx, seq: int, name: str) -> CheckpointRecord:
    """The checkpoint that ``promote`` would promote, unchanged. Raises as ``promote``."""
    return _checkpoint_of(_committed(_only(tx, _named(seq, name), name), "promoted"))


def _committed(row: Row[Any], use: str) -> Row[Any]:
    if row.status != CheckpointStatus.COMMITTED:
        raise InvalidRequest.of("checkpoint", row.name, f"it is {row.status}; only a committed one can be {use}")
    return row
