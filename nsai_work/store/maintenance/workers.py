"""Worker processes: who they are, when they were last seen, and which of them leads the sweep."""

from datetime import timedelta
from typing import Final

from sqlalchemy import insert, select, update

from nsai_work.store.engine.bulk_write import insert_new
from nsai_work.store.engine.database import Tx
from nsai_work.store.maintenance.leases import LeaseWatch
from nsai_work.store.records import Lease, WorkerRow
from nsai_work.store.schema import elections, workers
from nsai_work.worker_id import WorkerId

SILENCE: Final = timedelta(minutes=10)
"""A worker that was not seen for so long has gone. It is seen each time it looks whether it leads the sweep, every
five minutes at the least."""


def register_worker(tx: Tx, worker: WorkerId, *, version: str, backends: dict[str, str]) -> None:
    """Enter a worker that has just started."""
    row = {"id": str(worker), "host": worker.host, "pid": worker.pid, "version": version, "backends": backends}
    tx.connection.execute(insert(workers), {**row, "started_at": tx.now, "seen_at": tx.now})


def worker_seen(tx: Tx, worker_id: str, *, stopped: bool = False) -> None:
    """Note that a worker lives, or (``stopped``) that it has ended in order."""
    values = {"seen_at": tx.now, **({"stopped_at": tx.now} if stopped else {})}
    tx.connection.execute(update(workers).where(workers.c.id == worker_id).values(values))


def list_workers(tx: Tx) -> list[WorkerRow]:
    """All workers ever entered, the newest first."""
    rows = tx.connection.execute(select(workers).order_by(workers.c.started_at.desc(), workers.c.id))
    return [WorkerRow(**row._mapping) for row in rows]


def accounts(tx: Tx) -> dict[str, list[str]]:
    """By backend, the names of the accounts that workers use there, in order. For people to read: a worker that was
    killed is among them for a while, and one whose clock is wrong may be missing."""
    present = workers.c.stopped_at.is_(None) & (workers.c.seen_at > tx.now - SILENCE)
    found: dict[str, set[str]] = {}
    for used in tx.connection.execute(select(workers.c.backends).where(present)).scalars():
        for backend, credential in used.items():
            found.setdefault(backend, set()).add(credential)
    return {backend: sorted(names) for backend, names in found.items()}


class Election:
    """A candidate for a task that one process at a time should do.

    The leader beats; who has seen the same beat for ttl, by its own monotonic clock, takes over. Two leaders at
    once do no harm: what a leader does is safe without it, the election only saves work.
    """

    def __init__(self, name: str, worker_id: str, ttl_s: float) -> None:
        self.name = name
        self.worker_id = worker_id
        self.ttl_s = ttl_s
        self._watch = LeaseWatch()

    def campaign(self, tx: Tx) -> bool:
        """Beat, or take over from a leader who has gone; whether this candidate leads now."""
        insert_new(tx, elections, [{"name": self.name, "holder": self.worker_id, "term": 1, "beat": 0}])
        this = elections.c.name == self.name
        row = tx.connection.execute(select(elections).where(this)).one()
        if row.holder == self.worker_id:
            tx.connection.execute(update(elections).where(this).values(beat=row.beat + 1))
            return True
        lease = Lease(0, self.name, row.term, row.beat, self.ttl_s, row.holder)
        vacant = row.holder == ""
        if not self._watch.expired([lease], tx.clock.monotonic()) and not vacant:
            return False
        unchanged = this & (elections.c.term == row.term) & (elections.c.beat == row.beat)
        takeover = {"holder": self.worker_id, "term": row.term + 1, "beat": 0}
        return tx.connection.execute(update(elections).where(unchanged).values(takeover)).rowcount == 1

    def resign(self, tx: Tx) -> None:
        """Let another lead at once."""
        mine = (elections.c.name == self.name) & (elections.c.holder == self.worker_id)
        tx.connection.execute(update(elections).where(mine).values(holder="", beat=elections.c.beat + 1))
