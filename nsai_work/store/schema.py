"""The tables. The migrations create them; ``tests/integration/store/test_migrations.py`` holds the two equal.

``nsai_jobs`` has the mutable state (small rows), ``nsai_job_specs`` the immutable specs. Ready jobs are queued in
*lanes*: all jobs of a lane have equal conditions (tenant, priority, kind, backends, model, concurrency group). A
claim reads the few lanes, and locks jobs at the front of a lane by index, however many jobs follow.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    SmallInteger,
    String,
    Table,
    UniqueConstraint,
    literal_column,
    text,
)

from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.columns import BigKey, Json, LossyText, UtcTime

metadata: Final = MetaData()
job_numbers: Final = Sequence("nsai_job_numbers", metadata=metadata, data_type=BigInteger())


def _partial(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    condition = text(where)
    return Index(name, *columns, unique=unique, postgresql_where=condition, sqlite_where=condition)


def _job_column(*, primary_key: bool = False) -> Column[int]:
    return Column(
        "job_seq",
        BigInteger,
        ForeignKey("nsai_jobs.seq", ondelete="CASCADE"),
        primary_key=primary_key,
        autoincrement=False,
        nullable=False,
    )


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
    Column("group_max", Integer),
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
    Column("max_running", Integer),
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
    _partial("nsai_jobs_ready", "lane_id", "seq", where="status = 'queued' AND run_at IS NULL"),
    _partial("nsai_jobs_delayed", "run_at", where="status IN ('pending', 'queued') AND run_at IS NOT NULL"),
    _partial(
        "nsai_jobs_delayed_since",
        "delayed_since",
        where="status IN ('pending', 'queued') AND delayed_since IS NOT NULL",
    ),
    _partial("nsai_jobs_deadline", "deadline", where="status IN ('pending', 'queued') AND deadline IS NOT NULL"),
    _partial("nsai_jobs_running_tenant", "tenant_id", where="status = 'running'"),
    _partial("nsai_jobs_running_group", "group_key", where="status = 'running' AND group_key IS NOT NULL"),
    _partial("nsai_jobs_running_model", "credential", "model", where="status = 'running'"),
    _partial(
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
    _job_column(primary_key=True),
    Column("spec", Json, nullable=False),
)

tags: Final = Table(
    "nsai_job_tags",
    metadata,
    Column("tag", String, nullable=False),
    _job_column(),
    PrimaryKeyConstraint("tag", "job_seq"),
    Index("nsai_job_tags_of", "job_seq"),
)

dependencies: Final = Table(
    "nsai_dependencies",
    metadata,
    Column("needs_seq", BigInteger, ForeignKey("nsai_jobs.seq", ondelete="CASCADE"), nullable=False),
    _job_column(),
    PrimaryKeyConstraint("needs_seq", "job_seq"),
    Index("nsai_dependencies_of", "job_seq"),
)

events: Final = Table(
    "nsai_events",
    metadata,
    Column("seq", BigKey, primary_key=True),
    _job_column(),
    Column("at", UtcTime, nullable=False),
    Column("name", String, nullable=False),
    Column("data", Json, nullable=False),
    Index("nsai_events_of", "job_seq", "seq"),
)

attempts: Final = Table(
    "nsai_attempts",
    metadata,
    _job_column(),
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

workers: Final = Table(
    "nsai_workers",
    metadata,
    Column("id", String, primary_key=True),
    Column("host", String, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", String(40), nullable=False),
    Column("backends", Json, nullable=False),
    Column("started_at", UtcTime, nullable=False),
    Column("seen_at", UtcTime, nullable=False),
    Column("stopped_at", UtcTime),
    Column("priorities", Json),
    Column("seen_every_ms", BigInteger),
    Column("declined", Json),
    Column("job_ids", Json),
)

elections: Final = Table(
    "nsai_elections",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("holder", String, nullable=False),
    Column("term", BigInteger, nullable=False),
    Column("beat", BigInteger, nullable=False),
)

runs: Final = Table(
    "nsai_runs",
    metadata,
    _job_column(),
    Column("generation", Integer, nullable=False),
    Column("ref", Json, nullable=False),
    Column("from_step", BigInteger, nullable=False),
    Column("first_seq_id", BigInteger, nullable=False),
    Column("resume", String(20), nullable=False),
    Column("restored_from", String),
    Column("end_reason", LossyText),
    Column("started_at", UtcTime, nullable=False),
    Column("lost_steps", BigInteger),
    Column("restart_reason", LossyText),
    PrimaryKeyConstraint("job_seq", "generation"),
)

steps: Final = Table(
    "nsai_steps",
    metadata,
    _job_column(),
    Column("step", BigInteger, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("superseded_by", Integer),
    Column("epoch", Integer, nullable=False),
    Column("loss", Float(53), nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("learning_rate", Float(53), nullable=False),
    Column("metrics", Json, nullable=False),
    Column("recorded_at", UtcTime, nullable=False),
    PrimaryKeyConstraint("job_seq", "step", "generation"),
)

evaluations: Final = Table(
    "nsai_evaluations",
    metadata,
    _job_column(),
    Column("step", BigInteger, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("superseded_by", Integer),
    Column("metrics", Json, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("recorded_at", UtcTime, nullable=False),
    PrimaryKeyConstraint("job_seq", "step", "generation"),
)

references: Final = Table(
    "nsai_references",
    metadata,
    _job_column(),
    Column("number", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
    PrimaryKeyConstraint("job_seq", "number"),
)

intents: Final = Table(
    "nsai_intents",
    metadata,
    _job_column(),
    Column("generation", Integer, nullable=False),
    Column("last_seq_id", BigInteger, nullable=False),
    Column("intent", Json, nullable=False),
    Column("closed", Boolean, nullable=False),
    Column("intended_at", UtcTime, nullable=False),
    PrimaryKeyConstraint("job_seq", "generation", "last_seq_id"),
)

checkpoints: Final = Table(
    "nsai_checkpoints",
    metadata,
    _job_column(),
    Column("name", String, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("status", String(10), nullable=False),
    Column("path", String),
    Column("sampler_path", String),
    Column("metric", Float(53)),
    Column("promoted", Boolean, nullable=False),
    Column("final", Boolean, nullable=False),
    Column("size_bytes", BigInteger),
    Column("created_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime),
    Column("note", LossyText),
    PrimaryKeyConstraint("job_seq", "name"),
    UniqueConstraint("job_seq", "generation", "step", "name", name="nsai_checkpoints_order"),
)

blob_place: Final = Table(
    "nsai_blob_place",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("name", String, nullable=False),
)

blobs: Final = Table(
    "nsai_blobs",
    metadata,
    Column("key", String(32), primary_key=True),
    Column("sha256", String(64), nullable=False),
    Column("state", String(10), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("pieces", BigInteger, nullable=False),
    Column("touched_at", UtcTime, nullable=False),
    _partial("nsai_blobs_stored", "sha256", where="state = 'stored'", unique=True),
    Index("nsai_blobs_by_touch", "touched_at"),
)

blob_pieces: Final = Table(
    "nsai_blob_pieces",
    metadata,
    Column("key", String(32), ForeignKey("nsai_blobs.key", ondelete="CASCADE"), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("content", LargeBinary, nullable=False),
    PrimaryKeyConstraint("key", "number"),
)

job_blobs: Final = Table(
    "nsai_job_blobs",
    metadata,
    _job_column(),
    Column("key", String(32), ForeignKey("nsai_blobs.key"), nullable=False),
    PrimaryKeyConstraint("job_seq", "key"),
    Index("nsai_job_blobs_by_key", "key"),
)


def status_in(*statuses: JobStatus) -> ColumnElement[bool]:
    """A condition on the status, with literal values: SQLite uses a partial index only if it sees them."""
    if len(statuses) == 1:
        return jobs.c.status == literal_column(f"'{statuses[0]}'")
    return jobs.c.status.in_([literal_column(f"'{status}'") for status in statuses])
