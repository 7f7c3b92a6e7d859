"""Goodput: where the wall time of a job went, accounted from the times of its events.

Every moment from the submission on belongs to exactly one use, so the uses add up to the wall time. An event
decides about the time before it: until a step is recorded it was productive, or a repetition if that step had been
recorded before.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from pydantic import JsonValue

from crucible.errors import OutOfCredit


class Use(StrEnum):
    """A use of wall time."""

    PRODUCTIVE = "productive"
    EVALUATING = "evaluating"
    CHECKPOINTING = "checkpointing"
    QUEUED = "queued"
    PAUSED = "paused"
    WAITING = "waiting"
    STARTING = "starting"
    DETECTING = "detecting"
    RESTORING = "restoring"
    REPLAYING = "replaying"
    STOPPING = "stopping"


USES: Final[Mapping[Use, str]] = {
    Use.PRODUCTIVE: "new steps, answers, or the command",
    Use.EVALUATING: "evaluations",
    Use.CHECKPOINTING: "saving checkpoints, as far as no step ended meanwhile",
    Use.QUEUED: "in the queue, or held back by a delay, a dependency or a limit",
    Use.PAUSED: "until the account has credit again, or an ended job is retried",
    Use.WAITING: "the service is away, or at its limit",
    Use.STARTING: "from a claim to the first remote run",
    Use.DETECTING: "from the last progress to the discovery of a failure or a death",
    Use.RESTORING: "from there, or from the next claim, until the run is ready again",
    Use.REPLAYING: "steps that had been recorded before, repeated after a restore",
    Use.STOPPING: "handing over, or ending",
}
"""The meaning of each use."""


SHUT_DOWN: Final = "the worker was shut down"
"""The begin of the reason with which an owner queues a job that it hands over, as opposed to a failure."""


@dataclass(frozen=True, slots=True)
class TimedEvent:
    """An event with its time, as ``account`` needs it."""

    at: datetime
    name: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Goodput:
    """The wall time of a job by use."""

    wall: timedelta
    by_use: Mapping[Use, timedelta]

    @property
    def ratio(self) -> float:
        """The productive share, evaluations and checkpoints included; 0 before any time has passed."""
        good = sum((self.by_use[use] for use in _GOOD), timedelta())
        return good / self.wall if self.wall else 0.0

    def as_json(self) -> dict[str, JsonValue]:
        """Seconds by use, without those of zero, with the sum and the ratio."""
        spent = {f"{use}_s": time.total_seconds() for use, time in self.by_use.items() if time}
        return {"wall_s": self.wall.total_seconds(), "ratio": round(self.ratio, 4), **spent}


_GOOD: Final = (Use.PRODUCTIVE, Use.EVALUATING, Use.CHECKPOINTING)


def account(events: Iterable[TimedEvent], now: datetime) -> Goodput:
    """Account for the time from the first event to the last of an ended job, or to ``now``."""
    clerk = _Clerk()
    for event in events:
        clerk.enter(event)
    return clerk.close(now)


class _Clerk:
    """The account of a job: its state after the events so far, and the moment up to which time is assigned."""

    def __init__(self) -> None:
        self._spent: Counter[Use] = Counter()  # in microseconds, so that the sum is exact
        self._at: datetime | None = None
        self._began: datetime | None = None
        self._idle: Use | None = Use.QUEUED
        """The use while nobody runs the job; None while a worker does."""
        self._ended = self._waiting = self._trains = self._failing = False
        self._ready = True
        """False from a claim or a failure until the remote run can be used."""
        self._furthest = 0

    def enter(self, event: TimedEvent) -> None:
        """Assign the time until an event, if the event says what it was spent on."""
        if self._at is None:
            self._at = self._began = event.at
        use = self._use_until(event)
        if use is not None:
            self._spend(use, event.at)
        self._follow(event)

    def close(self, now: datetime) -> Goodput:
        """Assign the time since the last event, and return the account."""
        if self._at is None or self._began is None:
            return Goodput(timedelta(), dict.fromkeys(Use, timedelta()))
        if not self._ended:
            self._spend(self._current(), now)
        return Goodput(self._at - self._began, {use: timedelta(microseconds=self._spent[use]) for use in Use})

    def _spend(self, use: Use, until: datetime) -> None:
        assert self._at is not None
        # clocks of several processes: a time before the last counts as the last
        if until > self._at:
            self._spent[use] += (until - self._at) // timedelta(microseconds=1)
            self._at = until

    def _current(self) -> Use:
        """The use of time that no event has ended yet."""
        if self._idle is not None:
            return self._idle
        if self._waiting:
            return Use.WAITING
        if self._ready:
            return Use.PRODUCTIVE
        return Use.RESTORING if self._trains else Use.STARTING

    def _use_until(self, event: TimedEvent) -> Use | None:
        name, data = event.name, event.data
        if self._idle is not None:
            return self._idle
        found = name == "training.incident" or name.endswith(".recovery.detected")
        if name == "wait.ended" or (self._waiting and (found or name.startswith("job."))):
            return Use.WAITING
        if name == "step":
            return Use.REPLAYING if _step(data) <= self._furthest else Use.PRODUCTIVE
        if name in _WORK:
            return _WORK[name]
        if name.startswith("resume.") and not self._ready:
            return Use.RESTORING if self._trains else Use.STARTING
        if found:
            return Use.DETECTING if not self._failing else None
        if name == "job.queued":
            return Use.STOPPING if str(data.get("reason")).startswith(SHUT_DOWN) else Use.DETECTING
        if name in _ENDS:
            return Use.STOPPING if self._trains else Use.PRODUCTIVE
        if name == "wait.started":
            return self._current()
        return None

    def _follow(self, event: TimedEvent) -> None:
        name, data = event.name, event.data
        if name == "job.running":
            self._idle, self._ready = None, False
        elif name == "job.queued":
            failure = data.get("failure")
            short = isinstance(failure, Mapping) and failure.get("code") == OutOfCredit.code
            self._idle = Use.PAUSED if short else Use.QUEUED
            self._waiting = self._failing = self._ended = False
        elif name == "job.pending":
            self._idle, self._ended = Use.QUEUED, False
        elif name in _ENDS:
            self._idle, self._ended = Use.PAUSED, True
        elif name == "wait.started":
            self._waiting = True
        elif name == "wait.ended":
            self._waiting = False
        elif name == "training.incident" or name.endswith(".recovery.detected"):
            self._failing, self._ready = True, False
        elif name in ("resume.fresh", "resume.warm", "resume.restored", "resume.restarted"):
            self._trains, self._ready, self._failing, self._waiting = True, True, False, False
        elif name in _WORK or name == "step":
            self._ready, self._failing = True, False
            self._furthest = max(self._furthest, _step(data)) if name == "step" else self._furthest


_WORK: Final = {
    "evaluation": Use.EVALUATING,
    "checkpoint.committed": Use.CHECKPOINTING,
    "inference.progress": Use.PRODUCTIVE,
    "command.progress": Use.PRODUCTIVE,
    "training.reference": Use.PRODUCTIVE,
}
_ENDS: Final = frozenset({"job.succeeded", "job.failed", "job.canceled", "job.timeout"})


def _step(data: Mapping[str, Any]) -> int:
    step = data.get("step")
    return step if isinstance(step, int) else 0
