"""How much room the limits leave: counted from the jobs that run, under a lock, so that it never drifts."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import select, tuple_

from nsai_work.store.claim.candidates import Candidate
from nsai_work.store.claim.limits import LimitKey, running_under
from nsai_work.store.engine.database import Tx
from nsai_work.store.schema import limits


@dataclass
class Capacity:
    """The room left under each limit, as this claim uses it up. ``busy`` limits are locked by another claim."""

    most: dict[LimitKey, int | None] = field(default_factory=dict)
    running: dict[LimitKey, int] = field(default_factory=dict)
    busy: frozenset[LimitKey] = frozenset()

    def room(self, lane: Candidate, credential: str) -> int:
        """How many more jobs of the lane may run with this credential."""
        keys = _keys(lane, credential)
        if not self.busy.isdisjoint(keys):
            return 0
        rooms = [most - self.running[key] for key in keys if (most := self._most(lane, key)) is not None]
        return max(0, min(rooms)) if rooms else 1_000_000

    def use(self, lane: Candidate, credential: str, count: int) -> None:
        """Take note of jobs that were taken."""
        for key in _keys(lane, credential):
            if key in self.running:
                self.running[key] += count

    def _most(self, lane: Candidate, key: LimitKey) -> int | None:
        # how large a group may be is said by its jobs; the row of a group is only there to be locked
        return lane.group_max if key[0] == "group" else self.most.get(key)


def _keys(lane: Candidate, credential: str) -> list[LimitKey]:
    keys = [("tenant", lane.tenant_id, "*"), ("model", credential, "*"), ("model", credential, lane.model)]
    return keys if lane.group_key is None else [*keys, ("group", lane.group_key, "*")]


def measure(tx: Tx, candidates: Sequence[Candidate]) -> Capacity:
    """Lock the limits of these lanes and count what runs under them.

    A limit that another claim holds at this moment counts as used up, unless nothing else could be taken: then
    this claim waits for it, rather than go home while there is room.
    """
    limited = [lane for lane in candidates if lane.limited]
    if not limited:
        return Capacity()
    wanted = {key for lane in limited for _, credential in lane.backends for key in _keys(lane, credential)}
    columns = tuple_(limits.c.scope, limits.c.key, limits.c.model)
    statement = select(limits).where(columns.in_(sorted(wanted))).order_by(*limits.primary_key.columns)
    present = {(row.scope, row.key, row.model) for row in tx.connection.execute(statement)}
    rows = tx.connection.execute(statement.with_for_update(skip_locked=True)).all()
    if not rows and len(limited) == len(candidates):
        rows = tx.connection.execute(statement.with_for_update()).all()
    most = {(row.scope, row.key, row.model): row.max_running for row in rows}
    return Capacity(most, {key: running_under(tx, key) for key in most}, frozenset(present - most.keys()))
