"""Turns: within a priority, tenants with ready jobs are served in rotation.

Within a tenant, the lane whose front job is the oldest comes first.
"""

from collections import deque
from collections.abc import Sequence

from sqlalchemy import func, select, update

from nsai_work.store.claim.candidates import Candidate
from nsai_work.store.claim.locked_jobs import LockedJobs
from nsai_work.store.engine.database import Tx
from nsai_work.store.schema import turns


class TenantTurns:
    """The candidate lanes of one priority during a claim, by tenant, in the order of their turns."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self._rank = candidates[0].rank
        lanes: dict[str, list[Candidate]] = {}
        for candidate in candidates:
            lanes.setdefault(candidate.tenant_id, []).append(candidate)
        self._queue = deque(deque(sorted(own, key=lambda lane: lane.front)) for own in lanes.values())
        self._several = len(lanes) > 1
        self._served: set[str] = set()

    def fill(self, batch: LockedJobs, limit: int) -> int:
        """Add up to ``limit`` jobs, in equal shares for the tenants. Returns their number, which is lower if the
        lanes are empty."""
        filled = 0
        while self._queue and filled < limit:
            share = max(1, (limit - filled) // len(self._queue))
            for _ in range(len(self._queue)):
                filled += self._fill_from_next(batch, min(share, limit - filled))
                if filled == limit:
                    break
        return filled

    def _fill_from_next(self, batch: LockedJobs, limit: int) -> int:
        lanes = self._queue.popleft()
        added = batch.add_from(lanes[0], limit)
        if added:
            self._served.add(lanes[0].tenant_id)
        if added < limit:
            lanes.popleft()
        else:
            lanes.rotate(-1)
        if lanes:
            self._queue.append(lanes)
        return added

    def end(self, tx: Tx) -> None:
        """Move the served tenants behind all others. Rows locked by another claim are skipped: it moves them
        itself."""
        if not self._several or not self._served:
            return
        condition = (turns.c.rank == self._rank) & turns.c.tenant_id.in_(sorted(self._served))
        unlocked = select(turns.c.tenant_id).where(condition).with_for_update(skip_locked=True)
        others = turns.alias("others")
        last = select(func.max(others.c.turn)).where(others.c.rank == self._rank).scalar_subquery()
        moved = update(turns).where(turns.c.rank == self._rank, turns.c.tenant_id.in_(unlocked.scalar_subquery()))
        tx.connection.execute(moved.values(turn=last + 1))
