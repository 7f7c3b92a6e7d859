"""The job store: the source of truth about every job, in SQLite or PostgreSQL.

``Store`` is for callers that may block, ``AsyncStore`` for an event loop. Both run the operations in the folders of
this package: functions whose first argument is an open transaction.
"""

from nsai_work.store.async_store import AsyncStore, StandingClaim
from nsai_work.store.engine.database import Database, Tx
from nsai_work.store.engine.engines import parse_url
from nsai_work.store.journal.adapter import StoreJournal
from nsai_work.store.maintenance.leader import Election
from nsai_work.store.maintenance.leases import LeaseWatch
from nsai_work.store.maintenance.rescuer import MAX_CRASHES
from nsai_work.store.records import (
    AttemptRow,
    Claim,
    ClaimRequest,
    DueJobs,
    EventRow,
    JobFilter,
    Lease,
    LeaseReport,
    Limit,
    LimitUse,
    Outcome,
    OutcomeKind,
    Selection,
    Submitted,
    WakeUp,
    WorkerRow,
)
from nsai_work.store.store import Store, database_state, migrate_store, open_store

__all__ = [
    "MAX_CRASHES",
    "AsyncStore",
    "AttemptRow",
    "Claim",
    "ClaimRequest",
    "Database",
    "DueJobs",
    "Election",
    "EventRow",
    "JobFilter",
    "Lease",
    "LeaseReport",
    "LeaseWatch",
    "Limit",
    "LimitUse",
    "Outcome",
    "OutcomeKind",
    "Selection",
    "StandingClaim",
    "Store",
    "StoreJournal",
    "Submitted",
    "Tx",
    "WakeUp",
    "WorkerRow",
    "database_state",
    "migrate_store",
    "open_store",
    "parse_url",
]
