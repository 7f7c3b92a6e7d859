"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(sa.schema.CreateSequence(sa.Sequence("nsai_job_numbers", data_type=sa.BigInteger())))
    op.create_table(
        "nsai_elections",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("term", sa.BigInteger(), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "nsai_lanes",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("tenant_id", sa.String(length=200), nullable=False),
        sa.Column("rank", sa.SmallInteger(), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("group_key", sa.String(), nullable=True),
        sa.Column("group_max", sa.Integer(), nullable=True),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key"),
    )
    op.create_index("nsai_lanes_active", "nsai_lanes", ["active", "rank"], unique=False)
    op.create_table(
        "nsai_limits",
        sa.Column("scope", sa.String(length=10), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("max_running", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("scope", "key", "model"),
    )
    op.create_table(
        "nsai_turns",
        sa.Column("tenant_id", sa.String(length=200), nullable=False),
        sa.Column("rank", sa.SmallInteger(), nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "rank"),
    )
    op.create_table(
        "nsai_workers",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("version", sa.String(length=40), nullable=False),
        sa.Column("backends", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("stopped_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "nsai_jobs",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("tenant_id", sa.String(length=200), nullable=False),
        sa.Column("namespace", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("backend", sa.String(), nullable=False),
        sa.Column("rank", sa.SmallInteger(), nullable=False),
        sa.Column("idempotency_key", sa.String(length=200), nullable=True),
        sa.Column("parent_id", sa.String(), nullable=True),
        sa.Column("lane_id", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("wait_reason", sa.Text(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("progress", sa.BigInteger(), nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.Column("lease_ttl_ms", sa.BigInteger(), nullable=True),
        sa.Column("worker_id", sa.String(), nullable=True),
        sa.Column("credential", sa.String(), nullable=True),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("group_key", sa.String(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("queued_at", sa.BigInteger(), nullable=True),
        sa.Column("run_at", sa.BigInteger(), nullable=True),
        sa.Column("delayed_since", sa.BigInteger(), nullable=True),
        sa.Column("deadline", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("completed_at", sa.BigInteger(), nullable=True),
        sa.Column("cancel_requested_at", sa.BigInteger(), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["lane_id"],
            ["nsai_lanes.id"],
        ),
        sa.PrimaryKeyConstraint("seq"),
        sa.UniqueConstraint("id"),
        postgresql_with={"fillfactor": "85"},
    )
    op.create_index("nsai_jobs_by_status", "nsai_jobs", ["status", "seq"], unique=False)
    op.create_index("nsai_jobs_by_tenant", "nsai_jobs", ["tenant_id", "seq"], unique=False)
    op.create_index(
        "nsai_jobs_deadline",
        "nsai_jobs",
        ["deadline"],
        unique=False,
        postgresql_where=sa.text("status IN ('pending', 'queued') AND deadline IS NOT NULL"),
        sqlite_where=sa.text("status IN ('pending', 'queued') AND deadline IS NOT NULL"),
    )
    op.create_index(
        "nsai_jobs_delayed_since",
        "nsai_jobs",
        ["delayed_since"],
        unique=False,
        postgresql_where=sa.text("status IN ('pending', 'queued') AND delayed_since IS NOT NULL"),
        sqlite_where=sa.text("status IN ('pending', 'queued') AND delayed_since IS NOT NULL"),
    )
    op.create_index(
        "nsai_jobs_delayed",
        "nsai_jobs",
        ["run_at"],
        unique=False,
        postgresql_where=sa.text("status IN ('pending', 'queued') AND run_at IS NOT NULL"),
        sqlite_where=sa.text("status IN ('pending', 'queued') AND run_at IS NOT NULL"),
    )
    op.create_index(
        "nsai_jobs_idempotency",
        "nsai_jobs",
        ["tenant_id", "namespace", "idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
        sqlite_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_index(
        "nsai_jobs_ready",
        "nsai_jobs",
        ["lane_id", "position"],
        unique=False,
        postgresql_where=sa.text("status = 'queued' AND run_at IS NULL"),
        sqlite_where=sa.text("status = 'queued' AND run_at IS NULL"),
    )
    op.create_index(
        "nsai_jobs_running_group",
        "nsai_jobs",
        ["group_key"],
        unique=False,
        postgresql_where=sa.text("status = 'running' AND group_key IS NOT NULL"),
        sqlite_where=sa.text("status = 'running' AND group_key IS NOT NULL"),
    )
    op.create_index(
        "nsai_jobs_running_model",
        "nsai_jobs",
        ["credential", "model"],
        unique=False,
        postgresql_where=sa.text("status = 'running'"),
        sqlite_where=sa.text("status = 'running'"),
    )
    op.create_index(
        "nsai_jobs_running_tenant",
        "nsai_jobs",
        ["tenant_id"],
        unique=False,
        postgresql_where=sa.text("status = 'running'"),
        sqlite_where=sa.text("status = 'running'"),
    )
    op.create_table(
        "nsai_lane_backends",
        sa.Column("lane_id", sa.BigInteger(), nullable=False),
        sa.Column("preference", sa.SmallInteger(), nullable=False),
        sa.Column("backend", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["lane_id"], ["nsai_lanes.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("lane_id", "preference"),
    )
    op.create_table(
        "nsai_attempts",
        sa.Column("job_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.String(), nullable=False),
        sa.Column("backend", sa.String(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.String(length=20), nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["job_seq"], ["nsai_jobs.seq"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_seq", "epoch"),
    )
    op.create_table(
        "nsai_checkpoints",
        sa.Column("job_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("path", sa.String(), nullable=True),
        sa.Column("sampler_path", sa.String(), nullable=True),
        sa.Column("metric", sa.Float(precision=53), nullable=True),
        sa.Column("promoted", sa.Boolean(), nullable=False),
        sa.Column("final", sa.Boolean(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["job_seq"], ["nsai_jobs.seq"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_seq", "name"),
        sa.UniqueConstraint("job_seq", "generation", "step", "name", name="nsai_checkpoints_order"),
    )
    op.create_table(
        "nsai_dependencies",
        sa.Column("needs_seq", sa.BigInteger(), nullable=False),
        sa.Column("job_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["job_seq"], ["nsai_jobs.seq"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["needs_seq"], ["nsai_jobs.seq"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("needs_seq", "job_seq"),
    )
    op.create_index("nsai_dependencies_of", "nsai_dependencies", ["job_seq"], unique=False)
    op.create_table(
        "nsai_events",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_seq"], ["nsai_jobs.seq"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("nsai_events_of", "nsai_events", ["job_seq", "seq"], unique=False)
    op.create_table(
        "nsai_intents",
        sa.Column("job_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("last_seq_id", sa.BigInteger(), nullable=False),
        sa.Column("intent", sa.Text(), nullable=False),
        sa.Column("closed", sa.Boolean(), nullable=False),
        sa.Column("intended_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job_seq"], ["nsai_jobs.seq"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_seq", "generation", "last_seq_id"),
    )
    op.create_table(
        "nsai_job_specs",
        sa.Column("job_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_seq"], ["nsai_jobs.seq"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_seq"),
    )
    op.create_table(
        "nsai_job_tags",
        sa.Column("tag", sa.String(), nullable=False),
        sa.Column("job_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["job_seq"], ["nsai_jobs.seq"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("tag", "job_seq"),
    )
    op.create_table(
        "nsai_runs",
        sa.Column("job_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("ref", sa.Text(), nullable=False),
        sa.Column("from_step", sa.BigInteger(), nullable=False),
        sa.Column("first_seq_id", sa.BigInteger(), nullable=False),
        sa.Column("resume", sa.String(length=20), nullable=False),
        sa.Column("restored_from", sa.String(), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job_seq"], ["nsai_jobs.seq"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_seq", "generation"),
    )
    op.create_table(
        "nsai_steps",
        sa.Column("job_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("superseded_by", sa.Integer(), nullable=True),
        sa.Column("pass_epoch", sa.Integer(), nullable=False),
        sa.Column("loss", sa.Float(precision=53), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("learning_rate", sa.Float(precision=53), nullable=False),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job_seq"], ["nsai_jobs.seq"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_seq", "step", "generation"),
    )
