"""Alerts: how far each target was sent the events of jobs.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "nsai_alert_marks",
        sa.Column("target", sa.String(100), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("target"),
    )
    op.create_table(
        "nsai_alerts_sent",
        sa.Column("target", sa.String(100), nullable=False),
        sa.Column("event_seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("target", "event_seq"),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("nsai_alerts_sent")
    op.drop_table("nsai_alert_marks")
