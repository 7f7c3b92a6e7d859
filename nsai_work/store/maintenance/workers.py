"""The registry of worker processes."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import RowMapping, delete, exists, func, insert, select, update

from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.database import Tx
from nsai_work.store.engine.migrate import HEAD, current_version
from nsai_work.store.presence import absent_sessions, ended_processes
from nsai_work.store.records import Selection, WorkerRow, WorkerState, WorkerUse
from nsai_work.store.schema import jobs, status_in, workers
from nsai_work.store.worker_id import WorkerId

MAX_SILENCE: Final = timedelta(minutes=10)
"""A worker that has not been seen for longer is gone. It is seen at each campaign for leadership, at least every
five minutes."""

_DAY_MS: Final = 86_400_000
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)

_ANY_OPEN: Final = exists(
    select(jobs.c.seq).where(status_in(JobStatus.PENDING, JobStatus.QUEUED, JobStatus.RUNNING))
)


def register_worker(
    tx: Tx,
    worker: WorkerId,
    *,
    version: str,
    backends: dict[str, str],
    declined: Mapping[str, str] | None = None,
    selection: Selection | None = None,
    seen_every_s: float | None = None,
    has_presence: bool = False,
) -> None:
    """Register a worker process that has just started, with the jobs that it is there for. It will be seen every
    ``seen_every_s``."""
    row = {"id": str(worker), "host": worker.host, "pid": worker.pid, "version": version, "backends": backends}
    scope = selection or Selection()
    there_for = {
        "priorities": None if scope.priorities is None else [str(name) for name in scope.priorities],
        "job_ids": None if scope.job_ids is None else list(scope.job_ids),
        "seen_every_ms": None if seen_every_s is None else int(seen_every_s * 1000),
        "has_presence": has_presence,
    }
    times = {"started_at": tx.now, "seen_at": tx.now}
    tx.connection.execute(insert(workers), {**row, **there_for, **times, "declined": dict(declined or {})})


def worker_seen(
    tx: Tx, worker_id: str, *, declined: Mapping[str, str] | None = None, stopped: bool = False
) -> bool:
    """Record that a worker is alive, or (``stopped``) that it has shut down. ``declined`` are the backends that it
    cannot use now, with the reasons; None leaves the recorded ones.

    Returns whether any job runs or waits, in the same statement: all that idle workers ask is asked all the time.
    """
    values: dict[str, Any] = {"seen_at": tx.now}
    if declined is not None:
        values["declined"] = dict(declined)
    if stopped:
        values["stopped_at"] = tx.now
    statement = update(workers).where(workers.c.id == worker_id).values(values).returning(_ANY_OPEN)
    found = tx.connection.execute(statement).scalar()
    # a worker whose row is gone does not know, and looks
    return found is None or bool(found)


def present_workers(tx: Tx) -> list[WorkerRow]:
    """The workers that seem to run, the oldest first. One that was killed counts for three of its intervals and a
    second."""
    present = workers.c.stopped_at.is_(None) & (workers.c.seen_at > tx.now - MAX_SILENCE)
    statement = select(workers).where(present).order_by(workers.c.started_at, workers.c.id)
    rows = (_worker_of(row._mapping) for row in tx.connection.execute(statement))
    return [row for row in rows if not _is_silent(row, tx.now)]


def _is_silent(worker: WorkerRow, now: datetime) -> bool:
    if worker.seen_every_ms is None:
        return False
    return now - worker.seen_at > 3 * timedelta(milliseconds=worker.seen_every_ms) + timedelta(seconds=1)


def is_mixed(tx: Tx, version: str) -> bool:
    """Check whether processes of another version than this one use the store too: one has upgraded the tables, or
    is a worker that seems to run."""
    others = any(worker.version != version for worker in present_workers(tx))
    return others or current_version(tx.connection) != HEAD


def list_workers(tx: Tx) -> list[WorkerRow]:
    """All workers that are registered, the newest first."""
    rows = tx.connection.execute(select(workers).order_by(workers.c.started_at.desc(), workers.c.id))
    return [_worker_of(row._mapping) for row in rows]


def _worker_of(row: RowMapping) -> WorkerRow:
    """The worker of a row. A damaged one, which must not hide the others, is for nothing, and long ago."""
    values: dict[str, Any] = {**row}
    for name in ("backends", "declined"):
        values[name] = _texts(values[name]) if isinstance(values[name], dict) else {}
    for name in ("priorities", "job_ids"):
        found = values[name]
        values[name] = [str(item) for item in found] if isinstance(found, list) else None if found is None else []
    for name in ("started_at", "seen_at"):
        values[name] = values[name] or _LONG_AGO
    values["pid"] = values["pid"] if isinstance(values["pid"], int) else 0
    every_ms = values["seen_every_ms"]
    values["seen_every_ms"] = every_ms if isinstance(every_ms, int) and 0 < every_ms <= _DAY_MS else None
    return WorkerRow(**values)


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in values.items()}


def worker_uses(tx: Tx) -> list[WorkerUse]:
    """All workers that are registered, the newest first, each with its state and load. A job of a killed worker
    counts as running until another worker takes it over."""
    states = worker_states(tx, present_workers(tx))
    counts = select(jobs.c.worker_id, func.count().label("number")).where(status_in(JobStatus.RUNNING))
    running = {row.worker_id: row.number for row in tx.connection.execute(counts.group_by(jobs.c.worker_id))}
    return [
        WorkerUse(worker, states.get(worker.id, _ended(worker)), running.get(worker.id, 0))
        for worker in list_workers(tx)
    ]


def worker_counts(tx: Tx) -> dict[str, int]:
    """The number of workers that seem to run: alive, or absent since they were killed or lost their database."""
    states = [*worker_states(tx, present_workers(tx)).values()]
    return {state: states.count(state) for state in ("alive", "absent")}


def worker_states(tx: Tx, present: Sequence[WorkerRow]) -> dict[str, WorkerState]:
    """The states of workers that seem to run, by id: alive, or absent since they were killed or lost their
    database."""
    absent = _absent(tx, [worker.id for worker in present if worker.has_presence])
    return {worker.id: "absent" if worker.id in absent else "alive" for worker in present}


def _ended(worker: WorkerRow) -> WorkerState:
    return "gone" if worker.stopped_at is None else "stopped"


def _absent(tx: Tx, worker_ids: list[str]) -> frozenset[str]:
    if tx.postgres:
        return absent_sessions(tx.connection, worker_ids)
    return ended_processes(Path(str(tx.connection.engine.url.database)), worker_ids)


def forget_workers(tx: Tx, before: datetime) -> None:
    """Delete the workers that were seen last before ``before``, but for those that are alive or own a running
    job."""
    owns_job = exists().where(jobs.c.worker_id == workers.c.id, status_in(JobStatus.RUNNING)).correlate(workers)
    ended = workers.c.stopped_at.is_not(None) | (workers.c.seen_at <= tx.now - MAX_SILENCE)
    tx.connection.execute(delete(workers).where(workers.c.seen_at < before, ended, ~owns_job))


def credentials_in_use(tx: Tx) -> dict[str, list[str]]:
    """The sorted names of the credentials that present workers use, by backend. Only for display."""
    found: dict[str, set[str]] = {}
    for worker in present_workers(tx):
        for backend, credential in worker.backends.items():
            found.setdefault(backend, set()).add(credential)
    return {backend: sorted(names) for backend, names in found.items()}
