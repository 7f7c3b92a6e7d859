"""Positions in the cycle of priorities; workers record the priorities that they take and how often they are seen.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table, and add the columns."""
    op.create_table(
        "nsai_shares",
        sa.Column("selection", sa.String(32), nullable=False),
        sa.Column("number", sa.SmallInteger(), nullable=False),
        sa.Column("slot", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("selection", "number"),
    )
    op.add_column("nsai_workers", sa.Column("priorities", sa.Text(), nullable=True))
    op.add_column("nsai_workers", sa.Column("seen_every_ms", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("nsai_workers", "seen_every_ms")
    op.drop_column("nsai_workers", "priorities")
    op.drop_table("nsai_shares")
