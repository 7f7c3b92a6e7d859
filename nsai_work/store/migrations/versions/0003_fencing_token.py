"""Columns and event data call the fencing token "fence"; "epoch" is a pass over the data alone.

Stop the workers before this migration: it renames columns that a running worker of the version before writes. It
refuses while a worker that was seen within the last minute has not stopped. The column ``position`` of jobs, which
always equalled ``seq``, is dropped.

Revision ID: 0003
Revises: 0002
"""

from datetime import timedelta
from typing import Final

import sqlalchemy as sa
from alembic import op

from nsai_work.clock import SystemClock
from nsai_work.errors import StoreUnavailable
from nsai_work.store.engine.columns import UtcTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

PRESENT_FOR: Final = timedelta(minutes=1)
_READY: Final = sa.text("status = 'queued' AND run_at IS NULL")
# text of a user cannot match: a quotation mark inside a JSON string is escaped
_OLD_KEY: Final = '"epoch":'
_NEW_KEY: Final = '"fence":'
_JSON_COLUMNS: Final = (
    ("nsai_events", "data", "name LIKE 'job.%'"),
    ("nsai_jobs", "error", ""),
    ("nsai_attempts", "failure", ""),
)


def upgrade() -> None:
    """Rename the columns and the keys, and order the index of ready jobs by ``seq``."""
    _refuse_beside_workers()
    op.drop_index("nsai_jobs_ready", table_name="nsai_jobs")
    op.execute("ALTER TABLE nsai_jobs RENAME COLUMN epoch TO fence")
    op.execute("ALTER TABLE nsai_jobs DROP COLUMN position")
    op.execute("ALTER TABLE nsai_attempts RENAME COLUMN epoch TO fence")
    op.execute("ALTER TABLE nsai_steps RENAME COLUMN pass_epoch TO epoch")
    _create_ready_index("seq")
    _replace_keys(_OLD_KEY, _NEW_KEY)


def downgrade() -> None:
    """Rename them back; ``position`` is filled from ``seq``."""
    _refuse_beside_workers()
    _replace_keys(_NEW_KEY, _OLD_KEY)
    op.drop_index("nsai_jobs_ready", table_name="nsai_jobs")
    op.execute("ALTER TABLE nsai_steps RENAME COLUMN epoch TO pass_epoch")
    op.execute("ALTER TABLE nsai_attempts RENAME COLUMN fence TO epoch")
    op.execute("ALTER TABLE nsai_jobs RENAME COLUMN fence TO epoch")
    op.add_column("nsai_jobs", sa.Column("position", sa.BigInteger(), nullable=False, server_default="0"))
    op.execute("UPDATE nsai_jobs SET position = seq")
    _create_ready_index("position")


def _create_ready_index(order: str) -> None:
    op.create_index(
        "nsai_jobs_ready",
        "nsai_jobs",
        ["lane_id", order],
        unique=False,
        postgresql_where=_READY,
        sqlite_where=_READY,
    )


def _replace_keys(old: str, new: str) -> None:
    places = (
        ("nsai_events", "data", "name LIKE 'job.%'"),
        ("nsai_jobs", "error", ""),
        ("nsai_attempts", "failure", ""),
    )
    for table_name, column_name, condition in places:
        column = sa.column(column_name, sa.Text())
        statement = sa.update(sa.table(table_name, column)).where(column.contains(old))
        if condition:
            statement = statement.where(sa.text(condition))
        op.execute(statement.values({column_name: sa.func.replace(column, old, new)}))


def _refuse_beside_workers() -> None:
    workers = sa.table(
        "nsai_workers", sa.column("id"), sa.column("seen_at", UtcTime()), sa.column("stopped_at", UtcTime())
    )
    present = sa.select(workers.c.id).where(
        workers.c.stopped_at.is_(None), workers.c.seen_at > SystemClock().now() - PRESENT_FOR
    )
    ids = op.get_bind().execute(present.order_by(workers.c.id)).scalars().all()
    if ids:
        raise StoreUnavailable(
            f"the job store must be upgraded with the workers stopped; stop {', '.join(ids)}, then run: "
            "nsai-work db upgrade (a worker that was killed counts for a minute after it was last seen)",
            details={"workers": list(ids)},
        )
