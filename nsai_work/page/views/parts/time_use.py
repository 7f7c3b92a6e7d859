"""The wall time of a job by use: its goodput, as the parts of a bar."""

from collections.abc import Mapping
from typing import Final

from nsai_work.job import Job
from nsai_work.page.views.view import View
from nsai_work.store.engine.database import Tx
from nsai_work.store.queries.goodput import goodput
from nsai_work.store.records import EventRow
from nsai_work.telemetry.goodput import USES, Use

MAX_STEPS: Final = 3_000
"""The number of steps up to which a running job is accounted for at each change of its page."""


class UsePart(View):
    """The time that went to a use, its share of the wall time, where it begins in the bar, and its meaning."""

    use: str
    seconds: float
    share: float
    start: float
    meaning: str


class TimeUse(View):
    """The wall time of a job by use, the largest first. ``ratio`` is the productive share."""

    wall_s: float
    ratio: float
    parts: list[UsePart]


def read_time_use(tx: Tx, job: Job, step: EventRow | None) -> TimeUse | None:
    """The use of a job's time; None before any has passed, and while a job with many steps runs.

    All events of the job are read. An ended job has it in its result.
    """
    stored = job.result.get("goodput") if job.result is not None else None
    if isinstance(stored, dict):
        return time_use(stored)
    number = step.data.get("step") if step is not None else 0
    if isinstance(number, int) and number > MAX_STEPS:
        return None
    return time_use(goodput(tx, job.id).as_json())


def time_use(block: Mapping[str, object]) -> TimeUse | None:
    """The parts of a goodput block; None if it has no time."""
    wall_s, ratio = block.get("wall_s"), block.get("ratio")
    if not isinstance(wall_s, int | float) or not isinstance(ratio, int | float) or wall_s <= 0:
        return None
    spent = [(use, value) for use in Use if isinstance(value := block.get(f"{use}_s"), int | float)]
    spent.sort(key=lambda pair: -pair[1])
    parts, start = [], 0.0
    for use, seconds in spent:
        share = seconds / wall_s
        parts.append(UsePart(use=str(use), seconds=seconds, share=share, start=start, meaning=USES[use]))
        start += share
    return TimeUse(wall_s=wall_s, ratio=ratio, parts=parts)
