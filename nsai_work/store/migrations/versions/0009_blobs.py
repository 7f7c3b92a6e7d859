"""Blobs: the input files of jobs.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

from nsai_work.store.engine.columns import UtcTime

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables. Workers of the version before read the files at their paths."""
    op.create_table(
        "nsai_blob_place",
        sa.Column("id", sa.SmallInteger(), nullable=False, autoincrement=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "nsai_blobs",
        sa.Column("key", sa.String(32), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("pieces", sa.BigInteger(), nullable=False),
        sa.Column("touched_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    condition = sa.text("state = 'stored'")
    op.create_index(
        "nsai_blobs_stored",
        "nsai_blobs",
        ["sha256"],
        unique=True,
        postgresql_where=condition,
        sqlite_where=condition,
    )
    op.create_index("nsai_blobs_by_touch", "nsai_blobs", ["touched_at"])
    op.create_table(
        "nsai_blob_pieces",
        sa.Column("key", sa.String(32), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["key"], ["nsai_blobs.key"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key", "number"),
    )
    op.create_table(
        "nsai_job_blobs",
        sa.Column("job_seq", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(["job_seq"], ["nsai_jobs.seq"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["key"], ["nsai_blobs.key"]),
        sa.PrimaryKeyConstraint("job_seq", "key"),
    )
    op.create_index("nsai_job_blobs_by_key", "nsai_job_blobs", ["key"])


def downgrade() -> None:
    """Drop them."""
    for name in ("nsai_job_blobs", "nsai_blob_pieces", "nsai_blobs", "nsai_blob_place"):
        op.drop_table(name)
