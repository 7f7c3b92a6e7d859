"""An index for finding a job's tags: without it, deleting an old job reads all tags of all jobs.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index."""
    op.create_index("nsai_job_tags_of", "nsai_job_tags", ["job_seq"])


def downgrade() -> None:
    """Drop it."""
    op.drop_index("nsai_job_tags_of", table_name="nsai_job_tags")
