"""The attempts at a job along its life, as a bar with gaps where it waited."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from nsai_work.page.drawing.axes import Axis
from nsai_work.store.records import AttemptRow

WIDTH: Final = 1040
_MIN_WIDTH = 3.0


@dataclass(frozen=True, slots=True)
class DrawnAttempt:
    """An attempt, in pixels, with its outcome (``running`` while it has none)."""

    x: float
    width: float
    outcome: str
    title: str


def draw_attempts(attempts: Sequence[AttemptRow], began: datetime, now: datetime) -> list[DrawnAttempt]:
    """The attempts between the job's creation and its end, or now."""
    ends = [attempt.ended_at or now for attempt in attempts]
    axis = Axis(began.timestamp(), max([now, *ends] if None in ends else ends, default=now).timestamp(), 0, WIDTH)
    drawn = []
    for attempt, end in zip(attempts, ends, strict=True):
        start = axis.at(attempt.started_at.timestamp())
        width = max(axis.at(end.timestamp()) - start, _MIN_WIDTH)
        outcome = attempt.outcome or "running"
        title = f"attempt {attempt.attempt}: {outcome}"
        drawn.append(DrawnAttempt(min(start, WIDTH - _MIN_WIDTH), width, outcome, title))
    return drawn
