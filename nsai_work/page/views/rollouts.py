"""The rollouts of a job of reinforcement learning: the curve of rewards, and some of a step to read."""

from typing import Any, Final

from nsai_work.client.rollouts import with_messages
from nsai_work.journal.rollouts import RolloutRecord
from nsai_work.page.views.parts.curve_data import CurveData
from nsai_work.page.views.view import View
from nsai_work.store.engine.database import Tx
from nsai_work.store.journal.reinforcement.rollouts import job_turns, newest_rollouts
from nsai_work.store.queries.rewards import last_step, reward_curve

MAX_SHOWN: Final = 6
MAX_TEXT: Final = 4_000
"""The number of characters of a message that are shown."""


class RolloutMessage(View):
    """A message of a rollout, with its tool calls."""

    role: str
    text: str
    calls: list[str]


class RolloutLine(View):
    """A rollout with its messages. ``reward`` is None if it failed; ``reason`` is why it ended."""

    group: int
    member: int
    task: int
    reward: float | None
    reason: str
    turns: int
    tokens: int
    messages: list[RolloutMessage]


class Rollouts(View):
    """The rollouts of ``step``: some of them, from the best to the worst, and the curve of rewards of all steps."""

    step: int
    last: int
    number: int
    failed: int
    mean: float | None
    low: float | None
    high: float | None
    shown: list[RolloutLine]
    curve: CurveData


def read_rollouts(tx: Tx, seq: int, step: int | None, total: int | None) -> Rollouts | None:
    """Read the rollouts of a step, by default the newest; None if there is none.

    Raises:
        UnreadableJournal: a row is damaged.
    """
    last = last_step(tx, seq)
    if last is None:
        return None
    shown_step = min(max(step or last, 1), last)
    records = newest_rollouts(tx, seq, shown_step)
    rewards = [record.reward for record in records if record.reward is not None]
    chosen = _spread(sorted(records, key=_worth, reverse=True))
    turns = job_turns(tx, seq, shown_step, groups={record.group for record in chosen})
    curve = reward_curve(tx, seq)
    return Rollouts(
        step=shown_step,
        last=last,
        number=len(records),
        failed=len(records) - len(rewards),
        mean=sum(rewards) / len(rewards) if rewards else None,
        low=min(rewards, default=None),
        high=max(rewards, default=None),
        shown=[_line(record, messages) for record, messages in with_messages(chosen, turns)],
        curve=CurveData(
            # a point stands for several rollouts also where it is one step
            width=max(curve.width, 2),
            total=total,
            steps=[point.step for point in curve.points],
            loss=[point.mean for point in curve.points],
            low=[point.low for point in curve.points],
            high=[point.high for point in curve.points],
        ),
    )


def _worth(record: RolloutRecord) -> float:
    return float("-inf") if record.reward is None else record.reward


def _spread(records: list[RolloutRecord]) -> list[RolloutRecord]:
    """Some of the records, with the first and the last, and as far apart as they can be."""
    if len(records) <= MAX_SHOWN:
        return records
    gap = (len(records) - 1) / (MAX_SHOWN - 1)
    return [records[round(index * gap)] for index in range(MAX_SHOWN)]


def _line(record: RolloutRecord, messages: list[dict[str, Any]]) -> RolloutLine:
    return RolloutLine(
        group=record.group,
        member=record.member,
        task=record.task,
        reward=record.reward,
        reason=record.reason,
        turns=record.turns,
        tokens=record.tokens,
        messages=[_message(message) for message in messages],
    )


def _message(message: dict[str, Any]) -> RolloutMessage:
    content = message.get("content")
    text = content if isinstance(content, str) else "" if content is None else repr(content)
    calls = [f"{call.get('name')}({call.get('arguments')})" for call in message.get("tool_calls") or ()]
    return RolloutMessage(role=str(message.get("role")), text=_cut(text), calls=[_cut(call) for call in calls])


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}... ({len(text):,} characters)"
