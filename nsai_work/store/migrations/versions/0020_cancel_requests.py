"""An index of the running jobs that are to be canceled: each worker looks for its own twice a second.

Revision ID: 0020
Revises: 0019
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_CONDITION = "status = 'running' AND cancel_requested_at IS NOT NULL"


def upgrade() -> None:
    """Make the index."""
    op.create_index(
        "nsai_jobs_cancel_requested",
        "nsai_jobs",
        ["worker_id"],
        sqlite_where=sa.text(_CONDITION),
        postgresql_where=sa.text(_CONDITION),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_index("nsai_jobs_cancel_requested", table_name="nsai_jobs")
