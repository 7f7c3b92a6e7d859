"""Follows jobs to their end by polling the store: for blocking callers and for event loops.

A poll reads a job's status before its events: if the status is final, the events include the job's end. Events such
as the deletion of a checkpoint may follow the end, so a job is followed until a poll also finds no event.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from crucible.runtime.monotonic import monotonic
from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus

if TYPE_CHECKING:
    from nsai_work.store import EventRow, Store

MIN_PAUSE_S: Final = 0.01
MAX_PAUSE_S: Final = 0.5
PAUSE_GROWTH: Final = 1.5


@dataclass(frozen=True, slots=True)
class JobUpdate:
    """The status of a job, why and since when it waits, and its events after the previous update. The last update
    of a job has no events."""

    job_id: str
    status: JobStatus
    events: "Sequence[EventRow]"
    wait_reason: str | None = None
    queued_at: datetime | None = None


def read_update(store: "Store", job_id: str, after: int) -> JobUpdate:
    """Poll a job once: its status, then its events after entry number ``after``. Raises JobNotFound."""
    job = store.get(job_id)
    return JobUpdate(
        job_id, job.status, store.events(job_id, after), job.wait_reason, job.queued_at or job.created_at
    )


def follow_jobs(
    read: Callable[[str, int], JobUpdate],
    job_ids: Sequence[str],
    *,
    after: int = 0,
    until_end: bool = True,
    timeout_s: float | None = None,
    max_pause_s: float = MAX_PAUSE_S,
) -> Iterator[JobUpdate]:
    """Yield the updates of jobs until all have ended; without ``until_end``, until no stored event is left.

    ``read`` polls a job once, as ``read_update`` does.

    Raises:
        JobNotFound: a job does not exist.
        TimeoutError: a job has not ended after ``timeout_s``.
    """
    follower = _Follower(job_ids, after, until_end, Pauses(", ".join(job_ids), timeout_s, max_pause_s))
    while positions := follower.positions():
        for job_id, seq in positions:
            update = read(job_id, seq)
            if follower.accept(update):
                yield update
        time.sleep(follower.pause())


async def afollow_jobs(
    read: Callable[[str, int], Awaitable[JobUpdate]],
    job_ids: Sequence[str],
    *,
    after: int = 0,
    until_end: bool = True,
    max_pause_s: float = MAX_PAUSE_S,
) -> AsyncIterator[JobUpdate]:
    """``follow_jobs`` for an event loop."""
    follower = _Follower(job_ids, after, until_end, Pauses(", ".join(job_ids), None, max_pause_s))
    while positions := follower.positions():
        for job_id, seq in positions:
            update = await read(job_id, seq)
            if follower.accept(update):
                yield update
        await asyncio.sleep(follower.pause())


def wait_for_end(
    read: Callable[[], Job], job_id: str, timeout_s: float | None, max_pause_s: float = MAX_PAUSE_S
) -> Job:
    """Poll a job with ``read`` until it has ended, and return it.

    Raises:
        TimeoutError: it has not ended after ``timeout_s``.
    """
    pauses = Pauses(job_id, timeout_s, max_pause_s)
    while not (job := read()).status.ended:
        time.sleep(pauses.next())
    return job


async def await_end(read: Callable[[], Awaitable[Job]], job_id: str, timeout_s: float | None) -> Job:
    """``wait_for_end`` for an event loop."""
    pauses = Pauses(job_id, timeout_s)
    job = await read()
    while not job.status.ended:
        await asyncio.sleep(pauses.next())
        job = await read()
    return job


class Pauses:
    """The pauses between polls: they grow while nothing changes, and none reaches past the timeout."""

    def __init__(self, subject: str, timeout_s: float | None, max_pause_s: float = MAX_PAUSE_S) -> None:
        self._subject = subject
        self._timeout_s = timeout_s
        self._max_pause_s = max_pause_s
        self._began_at = monotonic()
        self._pause_s = MIN_PAUSE_S

    def reset(self) -> None:
        """Start from the shortest pause again."""
        self._pause_s = MIN_PAUSE_S

    def next(self) -> float:
        """Return the seconds to pause before the next poll.

        Raises:
            TimeoutError: the timeout has passed.
        """
        pause, self._pause_s = self._pause_s, min(self._pause_s * PAUSE_GROWTH, self._max_pause_s)
        if self._timeout_s is None:
            return pause
        left = self._timeout_s - (monotonic() - self._began_at)
        if left <= 0:
            waited = f"job {self._subject} has not ended after {self._timeout_s:g} s"
            raise TimeoutError(f"{waited}; it continues, and you can wait for it again")
        return min(pause, left)


class _Follower:
    """Decides which jobs to poll, from which event on, and how long to pause. Does no I/O."""

    def __init__(self, job_ids: Sequence[str], after: int, until_end: bool, pauses: Pauses) -> None:
        self._after = dict.fromkeys(job_ids, after)
        self._until_end = until_end
        self._pauses = pauses
        self._has_news = False

    def positions(self) -> list[tuple[str, int]]:
        """The jobs to poll next, each with the number of its last event that was read."""
        return list(self._after.items())

    def accept(self, update: JobUpdate) -> bool:
        """Record an update. Returns whether it holds events or is the last of its job."""
        if update.events:
            self._after[update.job_id] = update.events[-1].seq
            self._has_news = True
            return True
        if update.status.ended or not self._until_end:
            del self._after[update.job_id]
            return True
        return False

    def pause(self) -> float:
        """The seconds before the next round of polls: none after events, and when no job is left."""
        if self._has_news or not self._after:
            self._has_news = False
            self._pauses.reset()
            return 0.0
        return self._pauses.next()
