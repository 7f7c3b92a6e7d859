"""An index of the events that are no optimizer steps: a log of 200 lines does not read 100,000 steps between them.

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_CONDITION = "name <> 'step'"


def upgrade() -> None:
    """Make the index."""
    op.create_index(
        "nsai_events_log",
        "nsai_events",
        ["job_seq", "seq"],
        sqlite_where=sa.text(_CONDITION),
        postgresql_where=sa.text(_CONDITION),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_index("nsai_events_log", table_name="nsai_events")
