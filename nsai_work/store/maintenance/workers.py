"""The registry of worker processes."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, insert, select, update

from nsai_work.store.engine.database import Tx
from nsai_work.store.records import Selection, WorkerRow
from nsai_work.store.schema import workers
from nsai_work.worker_id import WorkerId, known_dead

MAX_SILENCE: Final = timedelta(minutes=10)
"""A worker that has not been seen for longer is gone. It is seen at each campaign for leadership, at least every
five minutes."""


def register_worker(
    tx: Tx,
    worker: WorkerId,
    *,
    version: str,
    backends: dict[str, str],
    declined: Mapping[str, str] | None = None,
    selection: Selection | None = None,
) -> None:
    """Register a worker process that has just started, with the jobs that it is there for."""
    row = {"id": str(worker), "host": worker.host, "pid": worker.pid, "version": version, "backends": backends}
    scope = selection or Selection()
    there_for = {
        "priorities": None if scope.priorities is None else [str(name) for name in scope.priorities],
        "job_ids": None if scope.job_ids is None else list(scope.job_ids),
    }
    times = {"started_at": tx.now, "seen_at": tx.now}
    tx.connection.execute(insert(workers), {**row, **there_for, **times, "declined": dict(declined or {})})


def worker_seen(
    tx: Tx, worker_id: str, *, declined: Mapping[str, str] | None = None, stopped: bool = False
) -> None:
    """Record that a worker is alive, or (``stopped``) that it has shut down. ``declined`` are the backends that it
    cannot use now, with the reasons; None leaves the recorded ones."""
    values: dict[str, Any] = {"seen_at": tx.now}
    if declined is not None:
        values["declined"] = dict(declined)
    if stopped:
        values["stopped_at"] = tx.now
    tx.connection.execute(update(workers).where(workers.c.id == worker_id).values(values))


def present_workers(tx: Tx) -> list[WorkerRow]:
    """The workers that seem to run, the oldest first.

    A worker killed on another machine counts for a while, and one with a wrong clock may be missing.
    """
    statement = select(workers).where(_present(tx)).order_by(workers.c.started_at, workers.c.id)
    rows = (WorkerRow(**row._mapping) for row in tx.connection.execute(statement))
    return [row for row in rows if not known_dead(row.id)]


def _present(tx: Tx) -> ColumnElement[bool]:
    return workers.c.stopped_at.is_(None) & (workers.c.seen_at > tx.now - MAX_SILENCE)


def list_workers(tx: Tx) -> list[WorkerRow]:
    """All workers ever registered, the newest first."""
    rows = tx.connection.execute(select(workers).order_by(workers.c.started_at.desc(), workers.c.id))
    return [WorkerRow(**row._mapping) for row in rows]


def credentials_in_use(tx: Tx) -> dict[str, list[str]]:
    """The sorted names of the credentials that present workers use, by backend.

    Only for display: a killed worker counts for a while, and one with a wrong clock may be missing.
    """
    found: dict[str, set[str]] = {}
    for used in tx.connection.execute(select(workers.c.backends).where(_present(tx))).scalars():
        for backend, credential in used.items():
            found.setdefault(backend, set()).add(credential)
    return {backend: sorted(names) for backend, names in found.items()}
