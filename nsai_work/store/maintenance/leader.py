"""Leader election among workers."""

from sqlalchemy import select, update

from nsai_work.store.engine.bulk_write import insert_new
from nsai_work.store.engine.database import Tx
from nsai_work.store.maintenance.leases import LeaseWatch
from nsai_work.store.records import Lease
from nsai_work.store.schema import elections


class Election:
    """A candidate for the leadership of a named task.

    The leader increments a beat. A candidate that has seen the same beat for ttl, by its own monotonic clock, takes
    over. Two leaders at once do no harm: the task is safe to run twice, and the election only saves work.
    """

    def __init__(self, name: str, worker_id: str, ttl_s: float) -> None:
        self.name = name
        self.worker_id = worker_id
        self.ttl_s = ttl_s
        self._watch = LeaseWatch()

    def campaign(self, tx: Tx) -> bool:
        """Renew the leadership, or take over from a silent leader. Returns whether this candidate leads."""
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
        """Give up the leadership, so that another candidate can take over at once."""
        own = (elections.c.name == self.name) & (elections.c.holder == self.worker_id)
        tx.connection.execute(update(elections).where(own).values(holder="", beat=elections.c.beat + 1))
