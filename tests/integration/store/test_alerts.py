"""Which events a target is sent, on both databases: each once, in order, however late it becomes visible."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, insert, select

from nsai_work.job import Job
from nsai_work.store.maintenance.alerts import SETTLED_AFTER, mark_sent, noted_events
from nsai_work.store.schema import alert_marks, alerts_sent, events
from tests.integration.store.conftest import ManualClock
from tests.working_store import WorkingStore

NAMES = ("job.failed", "job.submitted")


def due(store: WorkingStore, target: str = "ops", limit: int = 10) -> list[Any]:
    """The events that a target is to be sent."""
    return store.database.run(noted_events, target, NAMES, limit)


def numbers(store: WorkingStore) -> tuple[int, int]:
    """The mark of the target, and the number of rows above it."""
    mark = store.database.read(lambda tx: tx.connection.execute(select(alert_marks.c.seq)).scalar_one())
    rows = store.database.read(
        lambda tx: tx.connection.execute(select(func.count()).select_from(alerts_sent)).scalar()
    )
    return mark, rows


def test_a_target_is_sent_what_happens_from_now_on(store: WorkingStore, make_job: Callable[..., Job]) -> None:
    """Until it is recorded as sent, each time; another target on its own account."""
    store.submit([make_job(name="old")])
    assert due(store) == []
    store.submit([make_job(name="first"), make_job(name="second")])

    assert [event.name for event in due(store, limit=1)] == ["first"]
    first, second = due(store)
    assert (first.name, second.name, first.event, first.status) == ("first", "second", "job.submitted", "queued")
    store.database.run(mark_sent, "ops", first, None)
    assert [event.name for event in due(store)] == ["second"]
    assert due(store, "other") == []


def test_the_mark_follows_behind_what_is_settled(
    store: WorkingStore, make_job: Callable[..., Job], clock: ManualClock
) -> None:
    """It passes neither what is due nor what is young, and the rows below it are deleted."""
    due(store)
    store.submit([make_job(), make_job()])
    first, second = due(store)
    store.database.run(mark_sent, "ops", first, None)
    before, _ = numbers(store)
    assert due(store) == [second]
    assert numbers(store) == (before, 1)

    clock.pass_time(SETTLED_AFTER.total_seconds() + 1)
    assert due(store) == [second]
    assert numbers(store) == (second.seq - 1, 0)
    store.database.run(mark_sent, "ops", second, None)
    assert due(store) == []
    assert numbers(store) == (second.seq, 0)


def test_an_event_that_becomes_visible_late_is_sent(store: WorkingStore, make_job: Callable[..., Job]) -> None:
    """A transaction that took an earlier number and was committed after a later one was sent."""
    due(store)
    store.submit([make_job(), make_job()])
    first, second = due(store)
    row = store.database.read(
        lambda tx: tx.connection.execute(select(events).where(events.c.seq == first.seq)).one()
    )
    store.database.run(lambda tx: tx.connection.execute(events.delete().where(events.c.seq == first.seq)))
    store.database.run(mark_sent, "ops", second, None)
    assert due(store) == []
    store.database.run(lambda tx: tx.connection.execute(insert(events).values(dict(row._mapping))))

    assert due(store) == [first]


@pytest.mark.parametrize("failure", [None, "answered 410"])
def test_recording_twice_changes_nothing(
    store: WorkingStore, make_job: Callable[..., Job], failure: str | None
) -> None:
    """After a crash the next worker may do it again; the job may be gone by then."""
    due(store)
    [submitted] = store.submit([make_job()])
    [event] = due(store)
    for _ in range(2):
        store.database.run(mark_sent, "ops", event, failure)

    assert due(store) == []
    names = [entry.name for entry in store.events(submitted.job_id)]
    assert names == ["job.submitted"] + ["alert.given_up"] * (0 if failure is None else 2)
