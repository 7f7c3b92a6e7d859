"""The presence of workers, and the time for which the owner of a running job may be absent.

Revision ID: 0016
Revises: 0015
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns. Workers of the version before have no presence: only their leases count."""
    op.add_column("nsai_jobs", sa.Column("grace_ms", sa.BigInteger(), nullable=True))
    op.add_column("nsai_workers", sa.Column("has_presence", sa.Boolean(), nullable=True))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("nsai_workers", "has_presence")
    op.drop_column("nsai_jobs", "grace_ms")
