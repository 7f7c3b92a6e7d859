"""Evaluations of training runs.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

from nsai_work.store.engine.columns import Json, UtcTime

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table. Workers of the version before do not use it."""
    op.create_table(
        "nsai_evaluations",
        sa.Column("job_seq", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("superseded_by", sa.Integer(), nullable=True),
        sa.Column("metrics", Json(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(["job_seq"], ["nsai_jobs.seq"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_seq", "step", "generation"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("nsai_evaluations")
