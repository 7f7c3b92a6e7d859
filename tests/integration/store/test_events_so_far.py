"""What follows from the events of a job, without reading each step of a long run."""

from collections.abc import Iterator
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select

from nsai_work.presentation.progress import RunProgress
from nsai_work.store.queries.goodput import goodput
from nsai_work.store.queries.job_log import past_events
from nsai_work.store.queries.jobs import seq_of
from nsai_work.store.schema import events
from nsai_work.telemetry.goodput import TimedEvent, account
from tests.rig import command
from tests.working_store import WorkingStore

BETWEEN = ("evaluation", "checkpoint.committed", "wait.started", "wait.ended")


def a_life(random: Random) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events of a run that is killed and restored: some steps come again, in one piece or several."""
    yield "job.running", {}
    yield "resume.fresh", {}
    step = 0
    for _ in range(random.randrange(12)):
        for _ in range(random.choice((0, 1, 2, 3, 9))):
            step += 1
            yield "step", {"step": step, "total_steps": 99, "loss": float(step)}
        if random.random() < 0.3:
            step = max(step - random.randrange(12), 0)
            yield random.choice(("training.incident", "job.queued")), {"reason": "x"}
            yield "job.running", {}
            yield "resume.restored", {"from_step": step, "run_id": "r"}
        else:
            yield random.choice(BETWEEN), {"step": step, "metrics": {}, "reason": "x"}


@pytest.mark.parametrize("seed", range(60))
def test_it_follows_from_a_part_of_the_events_as_from_all(store: WorkingStore, seed: int) -> None:
    """The use of time to the microsecond, and the progress that a watcher sees."""
    job, random = command(), Random(seed)
    store.submit([job])
    with store.database.transaction() as tx:
        seq, at = seq_of(tx, job.id), tx.now
        tx.connection.execute(delete(events).where(events.c.job_seq == seq))
        for name, data in [("job.submitted", {}), *a_life(random)]:
            at += timedelta(microseconds=random.randrange(10_000_000))
            tx.connection.execute(insert(events).values(job_seq=seq, at=at, name=name, data=data))
    rows = store.events(job.id)

    def used(tx: Any) -> tuple[Any, Any]:
        return goodput(tx, job.id), account([TimedEvent(row.at, row.name, row.data) for row in rows], tx.now)

    found, expected = store.database.read(used)
    assert found == expected
    past, tail = store.database.read(past_events, job.id, 10)
    assert tail == rows[-10:]
    short, whole = RunProgress(), RunProgress()
    for row in (*past, *tail):
        short.update(row)
    for row in rows:
        whole.update(row)
    assert short == whole


def test_the_steps_of_a_long_run_are_not_read(store: WorkingStore) -> None:
    """Of those that follow each other there are the first and the last."""
    job = command()
    store.submit([job])
    with store.database.transaction() as tx:
        seq = seq_of(tx, job.id)
        new = [{"job_seq": seq, "at": tx.now, "name": "step", "data": {"step": step}} for step in range(1, 3_001)]
        tx.connection.execute(insert(events), new)
        number = tx.connection.execute(select(func.count()).where(events.c.job_seq == seq)).scalar()

    past, tail = store.database.read(past_events, job.id, 10)
    assert number is not None
    assert len(past) == number - 3_000 + 1
    assert [event.data["step"] for event in tail] == [*range(2_991, 3_001)]
