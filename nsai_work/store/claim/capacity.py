"""Capacity under the limits: counted from the running jobs, under a lock, so that it never drifts."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import select, tuple_

from nsai_work.store.claim.candidates import Candidate
from nsai_work.store.claim.limits import LimitKey, running_under
from nsai_work.store.engine.bulk_write import insert_new
from nsai_work.store.engine.database import Tx
from nsai_work.store.schema import limits


@dataclass
class Capacity:
    """The free capacity under each limit during a claim. ``busy`` limits are locked by another claim."""

    max_running: dict[LimitKey, int | None] = field(default_factory=dict)
    running: dict[LimitKey, int] = field(default_factory=dict)
    busy: frozenset[LimitKey] = frozenset()

    def available(self, lane: Candidate, credential: str) -> int:
        """The number of further jobs of the lane that may run with this credential."""
        keys = _keys(lane, credential)
        if not self.busy.isdisjoint(keys):
            return 0
        free = [limit - self.running[key] for key in keys if (limit := self._limit(lane, key)) is not None]
        return max(0, min(free)) if free else 1_000_000

    def use(self, lane: Candidate, credential: str, count: int) -> None:
        """Count jobs that this claim has locked."""
        for key in _keys(lane, credential):
            if key in self.running:
                self.running[key] += count

    def _limit(self, lane: Candidate, key: LimitKey) -> int | None:
        # the jobs of a group state its size; its row in nsai_limits exists only to be locked
        return lane.group_max or 0 if key[0] == "group" else self.max_running.get(key)


def _keys(lane: Candidate, credential: str) -> list[LimitKey]:
    keys = [("tenant", lane.tenant_id, "*"), ("model", credential, "*"), ("model", credential, lane.model)]
    return keys if lane.group_key is None else [*keys, ("group", lane.group_key, "*")]


def measure(tx: Tx, candidates: Sequence[Candidate]) -> Capacity:
    """Lock the limits of these lanes and count the jobs that run under them.

    A limit locked by another claim counts as exhausted, unless that would leave nothing to claim; then block on the
    lock instead of returning empty-handed.
    """
    limited = [lane for lane in candidates if lane.limited]
    if not limited:
        return Capacity()
    keys = {key for lane in limited for _, credential in lane.backends for key in _keys(lane, credential)}
    columns = tuple_(limits.c.scope, limits.c.key, limits.c.model)
    statement = select(limits).where(columns.in_(sorted(keys, key=str))).order_by(*limits.primary_key.columns)
    present = {(row.scope, row.key, row.model) for row in tx.connection.execute(statement)}
    lost = sorted((key for key in keys - present if key[0] == "group"), key=str)
    if lost:
        # somebody deleted these rows; without one to lock, its group could not be counted
        insert_new(tx, limits, [dict(zip(("scope", "key", "model"), key, strict=True)) for key in lost])
        present |= {*lost}
    rows = tx.connection.execute(statement.with_for_update(skip_locked=True)).all()
    if not rows and len(limited) == len(candidates):
        rows = tx.connection.execute(statement.with_for_update()).all()
    max_running = {(row.scope, row.key, row.model): row.max_running for row in rows}
    running = {key: running_under(tx, key) for key in max_running}
    return Capacity(max_running, running, frozenset(present - max_running.keys()))
