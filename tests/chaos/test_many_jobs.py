"""Many short jobs on many workers that are killed at random: each job ends once.

The short form has 30 jobs on 3 workers, the long one (``make chaos``) 1,000 on 20.
"""

import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select

from nsai_work import submit_many
from nsai_work.lifecycle import JobStatus
from nsai_work.store.schema import attempts, events, jobs
from tests.rig import Rig, command, new_database, until

pytestmark = [pytest.mark.chaos, pytest.mark.postgres]

ENDS = ("job.succeeded", "job.failed", "job.canceled", "job.timeout")


@pytest.fixture
def rig(postgres_url: str, tmp_path: Path) -> Iterator[Rig]:
    """A store on PostgreSQL."""
    with new_database(postgres_url) as url:
        opened = Rig(tmp_path, url, f"spool://localhost{tmp_path}/spool")
        yield opened
        opened.close()


class Crew:
    """Workers, of which a random one is killed and replaced at a time."""

    def __init__(self, rig: Rig, number: int) -> None:
        seed = int(os.environ.get("NSAI_CHAOS_SEED") or random.SystemRandom().randrange(10**6))
        sys.stderr.write(f"\nchaos: seed {seed}; replay with NSAI_CHAOS_SEED={seed}\n")
        self._rig = rig
        self._rng = random.Random(seed)
        self._alive = [self._start() for _ in range(number)]

    def _start(self) -> int:
        # few jobs at a time, so that each worker has some; leases that a busy machine does not let expire
        self._rig.start_worker("--concurrency", "5", ready=False, lease_ttl_s=30)
        return len(self._rig.workers) - 1

    def kill_one(self) -> None:
        """Kill a random worker, and start another."""
        place = self._rng.randrange(len(self._alive))
        self._rig.workers[self._alive[place]].kill()
        self._alive[place] = self._start()


def _ended(rig: Rig) -> int:
    ends = select(func.count()).where(jobs.c.status.in_([status for status in JobStatus if status.ended]))
    return int(rig.store.database.read(lambda tx: tx.connection.execute(ends).scalar_one()))


def _end_once(rig: Rig, *, number: int, workers: int, kills: int, timeout_s: float) -> None:
    crew = Crew(rig, workers)
    handles = submit_many([command("sleep", arguments={"ms": 500}) for _ in range(number)], rig.settings())
    for kill in range(kills):
        enough = number * kill // (kills + 1)
        until(lambda: _ended(rig) >= enough, f"{enough} jobs have ended", timeout_s=timeout_s)  # noqa: B023
        crew.kill_one()
    until(lambda: _ended(rig) == number, "all jobs have ended", timeout_s=timeout_s)

    ends = select(events.c.job_seq, events.c.name, func.count()).where(events.c.name.in_(ENDS))
    outcomes = select(attempts.c.job_seq, attempts.c.outcome, func.count())
    with rig.store.database.transaction(write=False) as tx:
        ended = tx.connection.execute(ends.group_by(events.c.job_seq, events.c.name)).all()
        tried = tx.connection.execute(outcomes.group_by(attempts.c.job_seq, attempts.c.outcome)).all()
    assert Counter(name for _, name, _ in ended) == {"job.succeeded": number}
    assert {count for _, _, count in ended} == {1}
    succeeded = [count for _, outcome, count in tried if outcome == "succeeded"]
    assert succeeded == [1] * number
    assert [handle.result(timeout=30) for handle in handles] == [{"slept_ms": 500}] * number
    # beside those of the killed, owners give back what they run when a busy machine keeps them from the database
    outcomes_found = {
        str(outcome): sum(count for _, name, count in tried if name == outcome) for _, outcome, _ in tried
    }
    sys.stderr.write(f"\nchaos: {number} jobs, {workers} workers, {kills} kills, attempts {outcomes_found}\n")


@pytest.mark.timeout(600)
def test_each_of_many_jobs_ends_once(rig: Rig) -> None:
    """The short form."""
    _end_once(rig, number=30, workers=3, kills=2, timeout_s=240)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_each_of_a_thousand_jobs_ends_once(rig: Rig) -> None:
    """The long form."""
    _end_once(rig, number=1_000, workers=20, kills=40, timeout_s=1_200)
