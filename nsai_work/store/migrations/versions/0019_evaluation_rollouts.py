"""Rollouts of the evaluations of reinforcement learning, and their turns.

Revision ID: 0019
Revises: 0018
"""

import sqlalchemy as sa
from alembic import op

from nsai_work.store.engine.columns import Json, LossyText, UtcTime

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables. Workers of the version before do not use them."""
    op.create_table(
        "nsai_evaluation_rollouts",
        sa.Column("job_seq", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("group_number", sa.Integer(), nullable=False),
        sa.Column("member", sa.Integer(), nullable=False),
        sa.Column("task", sa.BigInteger(), nullable=False),
        sa.Column("weights_step", sa.BigInteger(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=True),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("reward", sa.Float(53), nullable=True),
        sa.Column("metrics", Json(), nullable=False),
        sa.Column("reason", LossyText(), nullable=False),
        sa.Column("turns", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("truncated", sa.Integer(), nullable=False),
        sa.Column("recorded_at", UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(["job_seq"], ["nsai_jobs.seq"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_seq", "step", "generation", "group_number", "member"),
    )
    op.create_table(
        "nsai_evaluation_turns",
        sa.Column("job_seq", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("group_number", sa.Integer(), nullable=False),
        sa.Column("member", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("turn", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("recorded_at", UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(["job_seq"], ["nsai_jobs.seq"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_seq", "step", "generation", "group_number", "member", "attempt", "turn"),
    )


def downgrade() -> None:
    """Drop them."""
    for name in ("nsai_evaluation_turns", "nsai_evaluation_rollouts"):
        op.drop_table(name)
