"""Log-probabilities of reference models.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table. Workers of the version before do not use it."""
    op.create_table(
        "nsai_references",
        sa.Column("job_seq", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["job_seq"], ["nsai_jobs.seq"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_seq", "number"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("nsai_references")
