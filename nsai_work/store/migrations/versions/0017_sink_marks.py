"""The progress of each sink of a job.

Revision ID: 0017
Revises: 0016
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table. Workers of the version before do not use it."""
    op.create_table(
        "nsai_sink_marks",
        sa.Column("job_seq", sa.BigInteger(), nullable=False),
        sa.Column("sink", sa.String(200), nullable=False),
        sa.Column("segment", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("from_step", sa.BigInteger(), nullable=False),
        sa.Column("resume", sa.String(20), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("evaluated", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job_seq"], ["nsai_jobs.seq"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_seq", "sink"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("nsai_sink_marks")
