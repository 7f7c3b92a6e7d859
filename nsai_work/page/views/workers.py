"""The workers: whether they are alive, their load, and the backends that they can use."""

from crucible.values.scalars import Instant
from nsai_work.page.views.view import View, ViewQuery
from nsai_work.store.engine.database import Tx
from nsai_work.store.maintenance.workers import worker_uses
from nsai_work.store.records import WorkerState


class WorkersQuery(ViewQuery):
    """The choice of workers to show: with ``all``, also those that have ended."""

    all: bool = False


class WorkerLine(View):
    """A worker. ``backends`` are those that it can use now, ``declined`` the others with the reasons."""

    id: str
    state: WorkerState
    running: int
    host: str
    pid: int
    version: str
    started_at: Instant
    seen_at: Instant
    backends: list[str]
    declined: dict[str, str]
    priorities: list[str] | None


class WorkerList(View):
    """The workers, newest first. ``ended`` is the number of those that have ended."""

    query: WorkersQuery
    workers: list[WorkerLine]
    ended: int


def read_workers(tx: Tx, query: WorkersQuery) -> WorkerList:
    """Read the workers."""
    uses = worker_uses(tx)
    lines = [
        WorkerLine(
            id=use.worker.id,
            state=use.state,
            running=use.running,
            host=use.worker.host,
            pid=use.worker.pid,
            version=use.worker.version,
            started_at=use.worker.started_at,
            seen_at=use.worker.seen_at,
            backends=sorted(set(use.worker.backends) - set(use.worker.declined or {})),
            declined=dict(use.worker.declined or {}),
            priorities=use.worker.priorities,
        )
        for use in uses
        if query.all or not use.ended
    ]
    return WorkerList(query=query, workers=lines[:200], ended=sum(use.ended for use in uses))
