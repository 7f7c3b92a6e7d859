"""The registry of worker processes."""

from datetime import timedelta
from typing import Final

from sqlalchemy import insert, select, update

from nsai_work.store.engine.database import Tx
from nsai_work.store.records import WorkerRow
from nsai_work.store.schema import workers
from nsai_work.worker_id import WorkerId

MAX_SILENCE: Final = timedelta(minutes=10)
"""A worker that has not been seen for longer is gone. It is seen at each campaign for leadership, at least every
five minutes."""


def register_worker(tx: Tx, worker: WorkerId, *, version: str, backends: dict[str, str]) -> None:
    """Register a worker process that has just started."""
    row = {"id": str(worker), "host": worker.host, "pid": worker.pid, "version": version, "backends": backends}
    tx.connection.execute(insert(workers), {**row, "started_at": tx.now, "seen_at": tx.now})


def worker_seen(tx: Tx, worker_id: str, *, stopped: bool = False) -> None:
    """Record that a worker is alive, or (``stopped``) that it has shut down."""
    values = {"seen_at": tx.now, **({"stopped_at": tx.now} if stopped else {})}
    tx.connection.execute(update(workers).where(workers.c.id == worker_id).values(values))


def list_workers(tx: Tx) -> list[WorkerRow]:
    """All workers ever registered, the newest first."""
    rows = tx.connection.execute(select(workers).order_by(workers.c.started_at.desc(), workers.c.id))
    return [WorkerRow(**row._mapping) for row in rows]


def credentials_in_use(tx: Tx) -> dict[str, list[str]]:
    """The sorted names of the credentials that present workers use, by backend.

    Only for display: a killed worker counts for a while, and one with a wrong clock may be missing.
    """
    present = workers.c.stopped_at.is_(None) & (workers.c.seen_at > tx.now - MAX_SILENCE)
    found: dict[str, set[str]] = {}
    for used in tx.connection.execute(select(workers.c.backends).where(present)).scalars():
        for backend, credential in used.items():
            found.setdefault(backend, set()).add(credential)
    return {backend: sorted(names) for backend, names in found.items()}
