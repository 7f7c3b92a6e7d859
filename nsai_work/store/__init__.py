"""The store: the truth about every job, in SQLite or PostgreSQL.

``open_store`` gives the face for those who may wait, ``AsyncStore`` the one for an event loop. Both run the same
functions, which take an open transaction first: ``submitting``, ``claiming``, ``ending``, ``leases``,
``releasing``, ``steering``, ``reading``, ``journal``, ``limits`` and ``workers``.
"""

from nsai_work.store.async_store import AsyncStore, Standing
from nsai_work.store.engine.database import Database, Tx
from nsai_work.store.engine.engines import parse_url
from nsai_work.store.journal.adapter import StoreJournal
from nsai_work.store.maintenance.leases import MAX_CRASHES, LeaseWatch
from nsai_work.store.maintenance.workers import Election
from nsai_work.store.records import (
    AttemptRow,
    Claim,
    End,
    EventRow,
    Hint,
    JobFilter,
    Lease,
    LeaseReport,
    Limit,
    LimitUse,
    Outcome,
    Released,
    Requeue,
    Submitted,
    Wanted,
    WorkerRow,
)
from nsai_work.store.store import Store, migrate_store, open_store

__all__ = [
    "MAX_CRASHES",
    "AsyncStore",
    "AttemptRow",
    "Claim",
    "Database",
    "Election",
    "End",
    "EventRow",
    "Hint",
    "JobFilter",
    "Lease",
    "LeaseReport",
    "LeaseWatch",
    "Limit",
    "LimitUse",
    "Outcome",
    "Released",
    "Requeue",
    "Standing",
    "Store",
    "StoreJournal",
    "Submitted",
    "Tx",
    "Wanted",
    "WorkerRow",
    "migrate_store",
    "open_store",
    "parse_url",
]
