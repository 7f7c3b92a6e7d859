"""An index of the ready jobs without a recorded wait reason: a sweep over a long backlog reads only the rest.

Revision ID: 0018
Revises: 0017
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_CONDITION = "status = 'queued' AND run_at IS NULL AND wait_reason IS NULL"


def upgrade() -> None:
    """Make the index."""
    op.create_index(
        "nsai_jobs_unexplained",
        "nsai_jobs",
        ["lane_id", "seq"],
        sqlite_where=sa.text(_CONDITION),
        postgresql_where=sa.text(_CONDITION),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_index("nsai_jobs_unexplained", table_name="nsai_jobs")
