"""Leader election among workers."""

from collections.abc import Collection

from sqlalchemy import select, update

from nsai_work.store.engine.bulk_write import insert_new
from nsai_work.store.engine.database import Tx
from nsai_work.store.maintenance.leases import LeaseWatch
from nsai_work.store.records import Lease
from nsai_work.store.schema import elections, workers


class Election:
    """A candidate for the leadership of a named task.

    The leadership is held by the leader's presence: a candidate takes over as soon as that has ended. The leader
    also increments a beat: a candidate that has seen the same beat for ttl, by its own monotonic clock, takes over
    from a leader that is frozen or has no presence. Two leaders at once do no harm: the task is safe to run twice,
    and the election only saves work.
    """

    def __init__(self, name: str, worker_id: str, ttl_s: float) -> None:
        self.name = name
        self.worker_id = worker_id
        self.ttl_s = ttl_s
        self._watch = LeaseWatch()
        self._rival: str | None = None

    @property
    def rival(self) -> str | None:
        """The leader that the last campaign met, if its presence shows whether it lives."""
        return self._rival

    def campaign(self, tx: Tx, absent: Collection[str] = ()) -> bool:
        """Renew the leadership, or take over from a leader that is silent, or is in ``absent``. Returns whether
        this candidate leads."""
        this = elections.c.name == self.name
        query = select(elections, workers.c.has_presence).where(this)
        query = query.join_from(elections, workers, workers.c.id == elections.c.holder, isouter=True)
        row = tx.connection.execute(query).one_or_none()
        if row is None:
            insert_new(tx, elections, [{"name": self.name, "holder": "", "term": 0, "beat": 0}])
            row = tx.connection.execute(query).one()
        self._rival = None
        if row.holder == self.worker_id:
            tx.connection.execute(update(elections).where(this).values(beat=row.beat + 1))
            return True
        lease = Lease(0, self.name, row.term, row.beat, self.ttl_s, row.holder)
        silent = bool(self._watch.expired([lease], tx.clock.monotonic()))
        vacant = row.holder == "" or (row.has_presence and row.holder in absent)
        if not silent and not vacant:
            self._rival = row.holder if row.has_presence else None
            return False
        unchanged = this & (elections.c.term == row.term) & (elections.c.beat == row.beat)
        takeover = {"holder": self.worker_id, "term": row.term + 1, "beat": 0}
        return tx.connection.execute(update(elections).where(unchanged).values(takeover)).rowcount == 1

    def resign(self, tx: Tx) -> None:
        """Give up the leadership, so that another candidate can take over at once."""
        own = (elections.c.name == self.name) & (elections.c.holder == self.worker_id)
        tx.connection.execute(update(elections).where(own).values(holder="", beat=elections.c.beat + 1))
