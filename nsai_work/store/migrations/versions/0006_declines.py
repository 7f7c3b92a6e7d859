"""Workers record the backends that they cannot use, and the jobs that they are there for.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_COLUMNS = ("declined", "job_ids")


def upgrade() -> None:
    """Add the columns. Workers of the version before leave them empty."""
    for name in _COLUMNS:
        op.add_column("nsai_workers", sa.Column(name, sa.Text(), nullable=True))


def downgrade() -> None:
    """Drop them."""
    for name in reversed(_COLUMNS):
        op.drop_column("nsai_workers", name)
