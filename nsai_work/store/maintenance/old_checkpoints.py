"""Checkpoints of old ended jobs, which pruning deletes at their service on request.

Deletion has two phases, as in a running job: a row is ``deleting`` before the service is called, and ``deleted``
after it. If the service or the process fails in between, the next pruning finds the row and continues. Promoted
checkpoints are kept.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydantic import JsonValue
from sqlalchemy import Column, ColumnElement, Row, Select, and_, or_, select, true, update

from nsai_work.journal import CheckpointStatus
from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.database import Tx
from nsai_work.store.lifecycle.events import append_events
from nsai_work.store.maintenance.old_jobs import STORED_STATUSES, is_needed, is_old
from nsai_work.store.schema import checkpoints, jobs, runs, specs, status_in

_OPEN: Final = tuple(status for status in JobStatus if not status.ended)


@dataclass(frozen=True, slots=True)
class OldCheckpoint:
    """A checkpoint to delete at a backend. ``paths`` are those of its training state and its sampling weights."""

    job_id: str
    job_seq: int
    name: str
    backend: str
    paths: tuple[str, ...]


def open_specs(tx: Tx) -> list[tuple[str, JsonValue]]:
    """The ids and specs of all jobs that have not ended."""
    statement = select(jobs.c.id, specs.c.spec).join_from(jobs, specs, specs.c.job_seq == jobs.c.seq)
    rows = tx.connection.execute(statement.where(status_in(*_OPEN)))
    return [(row.id, row.spec) for row in rows]


def old_checkpoints(tx: Tx, before: datetime) -> list[OldCheckpoint]:
    """The checkpoints of jobs that ended before ``before``."""
    return [_checkpoint_of(row) for row in tx.connection.execute(_old_checkpoints(before))]


def begin_deletion(
    tx: Tx, before: datetime, *, limit: int, keep: Collection[str] = frozenset()
) -> list[OldCheckpoint]:
    """Mark up to ``limit`` checkpoints of jobs that ended before ``before`` as deleting, and return them. Those of
    locked jobs, and those with a path in ``keep``, are skipped."""
    kept = (_is_none_of(tx, column, keep) for column in (checkpoints.c.path, checkpoints.c.sampler_path))
    statement = _old_checkpoints(before).where(*kept).limit(limit).with_for_update(of=jobs, skip_locked=True)
    rows = tx.connection.execute(statement).all()
    _mark(tx, [row for row in rows if row.status != CheckpointStatus.DELETING], CheckpointStatus.DELETING)
    return [_checkpoint_of(row) for row in rows]


def end_deletion(tx: Tx, checkpoint: OldCheckpoint) -> None:
    """Record that a checkpoint no longer exists at its service. Idempotent."""
    tx.connection.execute(select(jobs.c.seq).where(jobs.c.seq == checkpoint.job_seq).with_for_update())
    condition = and_(checkpoints.c.job_seq == checkpoint.job_seq, checkpoints.c.name == checkpoint.name)
    rows = tx.connection.execute(select(checkpoints).where(condition)).all()
    _mark(tx, [row for row in rows if row.status == CheckpointStatus.DELETING], CheckpointStatus.DELETED)


def _is_none_of(tx: Tx, column: Column[str], paths: Collection[str]) -> ColumnElement[bool]:
    return or_(column.is_(None), ~tx.one_of(column, paths)) if paths else true()


def _old_checkpoints(before: datetime) -> Select[Any]:
    run = and_(runs.c.job_seq == checkpoints.c.job_seq, runs.c.generation == checkpoints.c.generation)
    return (
        select(checkpoints, jobs.c.id.label("job_id"), jobs.c.backend.label("job_backend"), runs.c.ref)
        .join(jobs, jobs.c.seq == checkpoints.c.job_seq)
        .join(runs, run)
        .where(is_old(before), ~is_needed(), checkpoints.c.status.in_(STORED_STATUSES), ~checkpoints.c.promoted)
        .order_by(checkpoints.c.job_seq, checkpoints.c.step, checkpoints.c.name)
    )


def _mark(tx: Tx, rows: Sequence[Row[Any]], status: CheckpointStatus) -> None:
    for row in rows:
        condition = and_(checkpoints.c.job_seq == row.job_seq, checkpoints.c.name == row.name)
        tx.connection.execute(update(checkpoints).where(condition).values(status=str(status)))
        data = {"name": row.name, "step": row.step, "path": row.path, "reason": "the job is pruned"}
        append_events(tx, [(row.job_seq, f"checkpoint.{status}", data)])


def _checkpoint_of(row: Row[Any]) -> OldCheckpoint:
    # a damaged reference, which names no backend, must not stop the deletion of the others
    named = row.ref.get("backend") if isinstance(row.ref, dict) else None
    backend = named if isinstance(named, str) else row.job_backend
    paths = tuple(path for path in (row.path, row.sampler_path) if path is not None)
    return OldCheckpoint(row.job_id, row.job_seq, row.name, backend, paths)
