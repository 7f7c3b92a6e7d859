"""Tables of the rollouts of reinforcement learning: those that ended, their turns, the weights they come from."""

from typing import Final

from sqlalchemy import BigInteger, Column, Float, Integer, LargeBinary, PrimaryKeyConstraint, String, Table

from nsai_work.store.engine.columns import Json, LossyText, UtcTime
from nsai_work.store.schema.metadata import job_column, metadata


def _rollouts(name: str) -> Table:
    """A table of rollouts that ended."""
    return Table(
        name,
        metadata,
        job_column(),
        Column("step", BigInteger, nullable=False),
        Column("generation", Integer, nullable=False),
        Column("group_number", Integer, nullable=False),
        Column("member", Integer, nullable=False),
        Column("task", BigInteger, nullable=False),
        Column("weights_step", BigInteger, nullable=False),
        Column("session_id", String),
        Column("status", String(10), nullable=False),
        Column("reward", Float(53)),
        Column("metrics", Json, nullable=False),
        Column("reason", LossyText, nullable=False),
        Column("turns", Integer, nullable=False),
        Column("tokens", BigInteger, nullable=False),
        Column("truncated", Integer, nullable=False),
        Column("recorded_at", UtcTime, nullable=False),
        PrimaryKeyConstraint("job_seq", "step", "generation", "group_number", "member"),
    )


def _turns(name: str) -> Table:
    """A table of the turns of rollouts."""
    return Table(
        name,
        metadata,
        job_column(),
        Column("step", BigInteger, nullable=False),
        Column("generation", Integer, nullable=False),
        Column("group_number", Integer, nullable=False),
        Column("member", Integer, nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("turn", Integer, nullable=False),
        Column("data", LargeBinary, nullable=False),
        Column("recorded_at", UtcTime, nullable=False),
        PrimaryKeyConstraint("job_seq", "step", "generation", "group_number", "member", "attempt", "turn"),
    )


rollouts: Final = _rollouts("nsai_rollouts")
rollout_turns: Final = _turns("nsai_rollout_turns")
evaluation_rollouts: Final = _rollouts("nsai_evaluation_rollouts")
evaluation_turns: Final = _turns("nsai_evaluation_turns")

policies: Final = Table(
    "nsai_policies",
    metadata,
    job_column(),
    Column("step", BigInteger, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("path", String, nullable=False),
    Column("ref", Json),
    PrimaryKeyConstraint("job_seq", "generation", "step"),
)
