"""Remote runs record how many steps they repeat, and why a job began again at step 0.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("nsai_runs", sa.Column("lost_steps", sa.BigInteger(), nullable=True))
    op.add_column("nsai_runs", sa.Column("restart_reason", sa.Text(), nullable=True))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("nsai_runs", "restart_reason")
    op.drop_column("nsai_runs", "lost_steps")
