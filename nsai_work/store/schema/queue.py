"""Tables of the queue: jobs and their specs, lanes, shares, limits, events and attempts."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    ForeignKey,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Sequence,
    SmallInteger,
    String,
    Table,
    literal_column,
)

from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.columns import BigKey, Json, LossyText, StoredLimit, UtcTime
from nsai_work.store.schema.metadata import job_column, metadata, partial_index

job_numbers: Final = Sequence("nsai_job_numbers", metadata=metadata, data_type=BigInteger())

lanes: Final = Table(
    "nsai_lanes",
    metadata,
    Column("id", BigKey, primary_key=True),
    Column("key", String(64), nullable=False, unique=True),
    Column("tenant_id", String(200), nullable=False),
    Column("rank", SmallInteger, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("model", String, nullable=False),
    Column("group_key", String),
    Column("group_max", StoredLimit),
    Column("active", Boolean, nullable=False),
    Index("nsai_lanes_active", "active", "rank"),
)

lane_backends: Final = Table(
    "nsai_lane_backends",
    metadata,
    Column("lane_id", BigInteger, ForeignKey("nsai_lanes.id", ondelete="CASCADE"), nullable=False),
    Column("preference", SmallInteger, nullable=False),
    Column("backend", String, nullable=False),
    PrimaryKeyConstraint("lane_id", "preference"),
)

turns: Final = Table(
    "nsai_turns",
    metadata,
    Column("tenant_id", String(200), nullable=False),
    Column("rank", SmallInteger, nullable=False),
    Column("turn", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant_id", "rank"),
)

shares: Final = Table(
    "nsai_shares",
    metadata,
    Column("selection", String(32), nullable=False),
    Column("number", SmallInteger, nullable=False),
    Column("slot", SmallInteger, nullable=False),
    PrimaryKeyConstraint("selection", "number"),
)

limits: Final = Table(
    "nsai_limits",
    metadata,
    Column("scope", String(10), nullable=False),
    Column("key", String, nullable=False),
    Column("model", String, nullable=False),
    Column("max_running", StoredLimit),
    PrimaryKeyConstraint("scope", "key", "model"),
)

jobs: Final = Table(
    "nsai_jobs",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("id", String(64), nullable=False, unique=True),
    Column("tenant_id", String(200), nullable=False),
    Column("namespace", String(200), nullable=False),
    Column("kind", String(40), nullable=False),
    Column("backend", String, nullable=False),
    Column("rank", SmallInteger, nullable=False),
    Column("idempotency_key", String(200)),
    Column("parent_id", String),
    Column("lane_id", BigInteger, ForeignKey("nsai_lanes.id"), nullable=False),
    Column("status", String(10), nullable=False),
    Column("wait_reason", LossyText),
    Column("attempt", Integer, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("crashes", Integer, nullable=False),
    Column("progress", BigInteger, nullable=False),
    Column("beat", BigInteger, nullable=False),
    Column("lease_ttl_ms", BigInteger),
    Column("grace_ms", BigInteger),
    Column("worker_id", String),
    Column("credential", String),
    Column("model", String, nullable=False),
    Column("group_key", String),
    Column("created_at", UtcTime, nullable=False),
    Column("queued_at", UtcTime),
    Column("run_at", UtcTime),
    Column("delayed_since", UtcTime),
    Column("deadline", UtcTime),
    Column("started_at", UtcTime),
    Column("completed_at", UtcTime),
    Column("cancel_requested_at", UtcTime),
    Column("result", Json),
    Column("error", Json),
    # the ready jobs of each lane, in order
    partial_index("nsai_jobs_ready", "lane_id", "seq", where="status = 'queued' AND run_at IS NULL"),
    # those without a recorded reason: what a sweep has recorded, the next does not read again
    partial_index(
        "nsai_jobs_unexplained",
        "lane_id",
        "seq",
        where="status = 'queued' AND run_at IS NULL AND wait_reason IS NULL",
    ),
    partial_index("nsai_jobs_delayed", "run_at", where="status IN ('pending', 'queued') AND run_at IS NOT NULL"),
    partial_index(
        "nsai_jobs_delayed_since",
        "delayed_since",
        where="status IN ('pending', 'queued') AND delayed_since IS NOT NULL",
    ),
    partial_index(
        "nsai_jobs_deadline", "deadline", where="status IN ('pending', 'queued') AND deadline IS NOT NULL"
    ),
    # nearly always empty, and asked all the time
    partial_index(
        "nsai_jobs_cancel_requested",
        "worker_id",
        where="status = 'running' AND cancel_requested_at IS NOT NULL",
    ),
    partial_index("nsai_jobs_running_tenant", "tenant_id", where="status = 'running'"),
    partial_index("nsai_jobs_running_group", "group_key", where="status = 'running' AND group_key IS NOT NULL"),
    partial_index("nsai_jobs_running_model", "credential", "model", where="status = 'running'"),
    partial_index(
        "nsai_jobs_idempotency",
        "tenant_id",
        "namespace",
        "idempotency_key",
        where="idempotency_key IS NOT NULL",
        unique=True,
    ),
    Index("nsai_jobs_by_status", "status", "seq"),
    Index("nsai_jobs_by_tenant", "tenant_id", "seq"),
    # free space, so that a heartbeat updates its row on the same page
    postgresql_with={"fillfactor": "85"},
)

specs: Final = Table(
    "nsai_job_specs",
    metadata,
    job_column(primary_key=True),
    Column("spec", Json, nullable=False),
    # what the job has read of other jobs, pinned at its first attempt
    Column("reads", Json),
)

tags: Final = Table(
    "nsai_job_tags",
    metadata,
    Column("tag", String, nullable=False),
    job_column(),
    PrimaryKeyConstraint("tag", "job_seq"),
    Index("nsai_job_tags_of", "job_seq"),
)

dependencies: Final = Table(
    "nsai_dependencies",
    metadata,
    Column("needs_seq", BigInteger, ForeignKey("nsai_jobs.seq", ondelete="CASCADE"), nullable=False),
    job_column(),
    PrimaryKeyConstraint("needs_seq", "job_seq"),
    Index("nsai_dependencies_of", "job_seq"),
)

events: Final = Table(
    "nsai_events",
    metadata,
    Column("seq", BigKey, primary_key=True),
    job_column(),
    Column("at", UtcTime, nullable=False),
    Column("name", String, nullable=False),
    Column("data", Json, nullable=False),
    Index("nsai_events_of", "job_seq", "seq"),
    # the log of a job without its steps
    partial_index("nsai_events_log", "job_seq", "seq", where="name <> 'step'"),
)

attempts: Final = Table(
    "nsai_attempts",
    metadata,
    job_column(),
    Column("fence", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("worker_id", String, nullable=False),
    Column("backend", String, nullable=False),
    Column("started_at", UtcTime, nullable=False),
    Column("ended_at", UtcTime),
    Column("outcome", String(20)),
    Column("failure", Json),
    Column("span", String(55)),
    PrimaryKeyConstraint("job_seq", "fence"),
)

STEP: Final = "step"
"""The name of the event of an optimizer step, of which a job may have a million."""
NO_STEP: Final[ColumnElement[bool]] = events.c.name != literal_column(f"'{STEP}'")
"""The condition of the index of events without steps. Its value is literal, as SQLite needs it."""


def status_in(*statuses: JobStatus) -> ColumnElement[bool]:
    """A condition on the status, with literal values: SQLite uses a partial index only if it sees them."""
    if len(statuses) == 1:
        return jobs.c.status == literal_column(f"'{statuses[0]}'")
    return jobs.c.status.in_([literal_column(f"'{status}'") for status in statuses])
