"""Following jobs: no event is lost between two polls, each job is followed to its end, and pauses stay bounded."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from nsai_work.client.follow import JobUpdate, Pauses, afollow_jobs, follow_jobs
from nsai_work.lifecycle import JobStatus
from nsai_work.store import EventRow

RUNNING, SUCCEEDED = JobStatus.RUNNING, JobStatus.SUCCEEDED


def event(seq: int) -> EventRow:
    """An event with this number."""
    return EventRow(seq=seq, job_id="a", name="step", at=datetime.now(UTC), data={})


def poll(script: dict[str, list[tuple[JobStatus, int]]]) -> Callable[[str, int], JobUpdate]:
    """A reader that finds, at each poll of a job, the next status and number of its newest event."""

    def read(job_id: str, after: int) -> JobUpdate:
        status, newest = script[job_id].pop(0)
        return JobUpdate(job_id, status, [event(seq) for seq in range(after + 1, newest + 1)])

    return read


def seen(update: JobUpdate) -> tuple[str, JobStatus, list[int]]:
    """An update as plain data."""
    return update.job_id, update.status, [event.seq for event in update.events]


def test_every_event_is_yielded_once_until_the_end() -> None:
    """Also those that were appended while the job ended, and after it."""
    script = {"a": [(RUNNING, 1), (RUNNING, 1), (RUNNING, 3), (SUCCEEDED, 4), (SUCCEEDED, 4)]}
    updates = [seen(update) for update in follow_jobs(poll(script), ["a"])]

    assert updates == [
        ("a", RUNNING, [1]),
        ("a", RUNNING, [2, 3]),
        ("a", SUCCEEDED, [4]),
        ("a", SUCCEEDED, []),
    ]


def test_jobs_end_independently() -> None:
    """A job that has ended is no longer polled."""
    script = {"a": [(SUCCEEDED, 0)], "b": [(RUNNING, 0), (RUNNING, 1), (SUCCEEDED, 1)]}

    async def read(job_id: str, after: int) -> JobUpdate:
        return poll(script)(job_id, after)

    async def follow() -> list[tuple[str, JobStatus, list[int]]]:
        return [seen(update) async for update in afollow_jobs(read, ["a", "b"])]

    assert asyncio.run(follow()) == [("a", SUCCEEDED, []), ("b", RUNNING, [1]), ("b", SUCCEEDED, [])]


def test_the_stored_events_alone() -> None:
    """Without ``until_end``, the iterator ends although the job runs."""
    script = {"a": [(RUNNING, 2), (RUNNING, 2)]}

    updates = [seen(update) for update in follow_jobs(poll(script), ["a"], after=1, until_end=False)]

    assert updates == [("a", RUNNING, [2]), ("a", RUNNING, [])]


def test_a_timeout_ends_the_polling() -> None:
    """It is checked after a poll that finds nothing new, so the first poll always happens."""
    script = {"a": [(RUNNING, 1), (RUNNING, 1)]}
    updates = follow_jobs(poll(script), ["a"], timeout_s=0)

    assert seen(next(updates)) == ("a", RUNNING, [1])
    with pytest.raises(TimeoutError, match="job a has not ended after 0 s"):
        next(updates)


def test_pauses_grow_up_to_their_maximum() -> None:
    """And start again from the shortest."""
    pauses = Pauses("a", None, 0.03)
    first = [round(pauses.next(), 4) for _ in range(5)]
    pauses.reset()

    assert first == [0.01, 0.015, 0.0225, 0.03, 0.03]
    assert pauses.next() == 0.01


def test_a_pause_ends_with_the_timeout() -> None:
    """The last pause is cut short, so that the timeout is kept."""
    pauses = Pauses("a", 0.005)

    assert 0 < pauses.next() <= 0.005
