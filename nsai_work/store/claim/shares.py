"""Shares: the order in which claims serve the priorities that have ready jobs, so that none starves.

A claim takes its jobs from the slots of a fixed cycle of 16, in which the priorities have 9, 4, 2 and 1 slots,
evenly spread. Slots of a priority without claimable jobs are skipped, so nothing is reserved for it. Any window of
16 consecutive claims with all four waiting therefore holds 9, 4, 2 and 1 of them; a subset shares in the same
proportion.

The position in the cycle is a row of ``nsai_shares``, shared by the claims with equal selections only: a worker
that takes some priorities or backends passes the slots of jobs that it cannot see. Concurrent claims do not wait
for each other: each advances the first row that is not locked. Each row keeps the shares exactly, so concurrent
claims deviate from them by a few jobs per row, whatever their order.
"""

import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Select, and_, bindparam, delete, func, select

from nsai_work.job import Priority
from nsai_work.payloads import JobKind
from nsai_work.store.engine.bulk_write import BulkWrite, insert_new
from nsai_work.store.engine.database import PREPARED, Tx
from nsai_work.store.records import Selection
from nsai_work.store.schema import shares

SHARES: Final = {Priority.REALTIME: 9, Priority.INTERACTIVE: 4, Priority.BATCH: 2, Priority.OFFLINE: 1}
MAX_SELECTIONS: Final = 64
"""The number of selections whose positions are stored at most, until the next sweep."""
MAX_CONCURRENT: Final = 16
"""The number of rows of a selection, and so of concurrent claims that keep the shares exactly."""


def _evenly_spread() -> tuple[int, ...]:
    """The ranks of one cycle, by smooth weighted round-robin: each slot goes to the rank that lags behind most."""
    shares_by_rank = {priority.rank: share for priority, share in SHARES.items()}
    total = sum(shares_by_rank.values())
    lag = dict.fromkeys(shares_by_rank, 0)
    slots = []
    for _ in range(total):
        for rank, share in shares_by_rank.items():
            lag[rank] += share
        chosen = max(lag, key=lambda rank: lag[rank])
        lag[chosen] -= total
        slots.append(chosen)
    return tuple(slots)


SLOTS: Final = _evenly_spread()


@dataclass
class ShareCycle:
    """The cycle at a position. ``row`` is its key, locked by this transaction; None if it is not stored."""

    slot: int = 0
    row: tuple[str, int] | None = None

    def deal(self, ranks: Collection[int], count: int) -> Counter[int]:
        """Deal ``count`` jobs to the ranks, and advance. Returns the number of jobs of each rank."""
        dealt: Counter[int] = Counter()
        while count and ranks:
            rank = SLOTS[self.slot]
            self.slot = (self.slot + 1) % len(SLOTS)
            if rank in ranks:
                dealt[rank] += 1
                count -= 1
        return dealt

    def plan(self, bulk: BulkWrite) -> None:
        """Add the new position to a bulk write."""
        if self.row is not None:
            selection, number = self.row
            bulk.update(
                shares, [{"selection": selection, "number": number, "slot": self.slot}], by=("selection", "number")
            )


def lock_cycle(tx: Tx, selection: Selection) -> ShareCycle:
    """The cycle at the position of a claim, locked until this transaction ends."""
    if selection.job_ids is not None:
        # of a process that works on its own jobs
        return ShareCycle()
    key = _key(selection.priorities, selection.kinds, selection.backends)
    for _ in range(2):
        row = tx.connection.execute(_first_unlocked(), {"key": key}).first()
        if row is not None:
            return ShareCycle(row.slot, (key, row.number))
        # created by the first claim that needs them; they begin at different slots
        rows = [{"selection": key, "number": number, "slot": number} for number in range(MAX_CONCURRENT)]
        insert_new(tx, shares, rows)
    # each is locked by another claim: a slot at random keeps the shares on average
    return ShareCycle(secrets.randbelow(len(SLOTS)))


def prune_shares(tx: Tx) -> int:
    """Delete the positions of all selections if they are more than MAX_SELECTIONS, most of them of workers that are
    gone. Returns the number of deleted rows.

    The selections in use begin their cycles again at the next claim. Rows that a claim has locked stay.
    """
    count = tx.connection.execute(select(func.count()).select_from(shares)).scalar_one()
    if count <= MAX_SELECTIONS * MAX_CONCURRENT:
        return 0
    unlocked = select(shares.c.selection, shares.c.number).with_for_update(skip_locked=True)
    rows = tx.connection.execute(unlocked).all()
    for row in rows:
        same = and_(shares.c.selection == row.selection, shares.c.number == row.number)
        tx.connection.execute(delete(shares).where(same))
    return len(rows)


@lru_cache(maxsize=64)
def _key(
    priorities: tuple[Priority, ...] | None,
    kinds: tuple[JobKind, ...] | None,
    backends: tuple[tuple[str, str], ...] | None,
) -> str:
    names = None if backends is None else [name for name, _ in backends]
    return hashlib.blake2b(json.dumps([priorities, kinds, names]).encode(), digest_size=16).hexdigest()


@lru_cache
def _first_unlocked() -> Select[Any]:
    statement = select(shares).where(shares.c.selection == bindparam("key")).order_by(shares.c.number).limit(1)
    return statement.with_for_update(skip_locked=True).execution_options(**PREPARED)
