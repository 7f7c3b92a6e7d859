"""The rewards of a job's rollouts, by optimizer step, reduced in the query."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Select, func, select

from nsai_work.store.engine.database import Tx
from nsai_work.store.schema import rollouts

MAX_POINTS: Final = 400


@dataclass(frozen=True, slots=True)
class RewardPoint:
    """The rewards of rollouts, without those that failed: of one step or several, of which ``step`` is the last."""

    step: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class RewardCurve:
    """Points of rewards, each of up to ``width`` steps."""

    width: int
    points: list[RewardPoint]


def last_step(tx: Tx, seq: int) -> int | None:
    """The newest step with a rollout that has ended; None if there is none."""
    newest: int | None = tx.connection.execute(_of(seq).with_only_columns(func.max(rollouts.c.step))).scalar()
    return newest


def reward_curve(tx: Tx, seq: int, *, max_points: int = MAX_POINTS) -> RewardCurve:
    """The rewards of a job by step. Of each place, the newest rollout counts."""
    width = max(1, -(-(last_step(tx, seq) or 0) // max_points))
    place = (rollouts.c.step, rollouts.c.group_number, rollouts.c.member)
    newest = (
        _of(seq).with_only_columns(*place, func.max(rollouts.c.generation).label("generation")).group_by(*place)
    )
    of_place = newest.subquery()
    rewards = (
        _of(seq)
        .join(
            of_place,
            (rollouts.c.step == of_place.c.step)
            & (rollouts.c.group_number == of_place.c.group_number)
            & (rollouts.c.member == of_place.c.member)
            & (rollouts.c.generation == of_place.c.generation),
        )
        .where(rollouts.c.reward.is_not(None))
        .with_only_columns(((rollouts.c.step - 1) // width).label("bucket"), rollouts.c.step, rollouts.c.reward)
        .subquery()
    )
    points = select(
        func.max(rewards.c.step).label("step"),
        func.avg(rewards.c.reward).label("mean"),
        func.min(rewards.c.reward).label("low"),
        func.max(rewards.c.reward).label("high"),
    ).group_by(rewards.c.bucket)
    rows = tx.connection.execute(points.order_by("step"))
    return RewardCurve(width, [RewardPoint(row.step, row.mean, row.low, row.high) for row in rows])


def _of(seq: int) -> Select[tuple[int]]:
    return select(rollouts.c.step).where(rollouts.c.job_seq == seq)
