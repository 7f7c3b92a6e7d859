"""The reads of jobs from other jobs.

Revision ID: 0014
Revises: 0013
"""

import sqlalchemy as sa
from alembic import op

from nsai_work.store.engine.columns import Json

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. Workers of the version before refuse jobs that read others."""
    with op.batch_alter_table("nsai_job_specs") as table:
        table.add_column(sa.Column("reads", Json(), nullable=True))


def downgrade() -> None:
    """Drop it."""
    with op.batch_alter_table("nsai_job_specs") as table:
        table.drop_column("reads")
