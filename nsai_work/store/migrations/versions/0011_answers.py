"""Answers of inference batches.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table. Workers of the version before append the answers to the file of the batch instead."""
    op.create_table(
        "nsai_answers",
        sa.Column("job_seq", sa.BigInteger(), nullable=False),
        sa.Column("line", sa.BigInteger(), nullable=False),
        sa.Column("prompt_sha256", sa.String(64), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["job_seq"], ["nsai_jobs.seq"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_seq", "line"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("nsai_answers")
