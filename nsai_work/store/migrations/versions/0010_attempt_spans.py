"""Attempts record their span, to which the next attempt's is linked.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. Workers of the version before leave it empty."""
    op.add_column("nsai_attempts", sa.Column("span", sa.String(55), nullable=True))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("nsai_attempts", "span")
