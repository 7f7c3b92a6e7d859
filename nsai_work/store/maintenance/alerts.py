"""Delivered alerts: which events each target was sent.

Events of concurrent transactions become visible out of the order of their numbers. So a target has, above a mark
below which everything is settled, a row for each event that it was sent; the mark follows a minute behind.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

from pydantic import JsonValue
from sqlalchemy import delete, func, select, update

from nsai_work.errors import JobNotFound
from nsai_work.store.engine.bulk_write import insert_new
from nsai_work.store.engine.database import Tx
from nsai_work.store.lifecycle.events import add_event
from nsai_work.store.records import NotedEvent
from nsai_work.store.schema import alert_marks, alerts_sent, events, jobs, specs

SETTLED_AFTER: Final = timedelta(seconds=60)
"""The age of an event after which none with a lower number can still become visible."""
GIVEN_UP: Final = "alert.given_up"


def noted_events(tx: Tx, target: str, names: Sequence[str], limit: int) -> list[NotedEvent]:
    """The next events of these names that a target was not sent, in order. A new target begins with the present."""
    mark = _mark(tx, target, names)
    sent = select(alerts_sent.c.event_seq).where(alerts_sent.c.target == target)
    statement = (
        select(events, jobs.c.id, jobs.c.kind, jobs.c.backend, jobs.c.tenant_id, jobs.c.status, specs.c.spec)
        .join_from(events, jobs, jobs.c.seq == events.c.job_seq)
        .join(specs, specs.c.job_seq == jobs.c.seq)
        .where(events.c.seq > mark, events.c.name.in_(names), events.c.seq.not_in(sent))
        .order_by(events.c.seq)
        .limit(limit)
    )
    return [_noted(row._mapping) for row in tx.connection.execute(statement)]


def mark_sent(tx: Tx, target: str, event: NotedEvent, failure: str | None) -> None:
    """Record that a target was sent an event; or that it never will be, with a reason, as an event of the job."""
    insert_new(tx, alerts_sent, [{"target": target, "event_seq": event.seq}])
    if failure is not None:
        data: dict[str, JsonValue] = {"target": target, "event": event.event, "reason": failure}
        with suppress(JobNotFound):
            add_event(tx, event.job_id, GIVEN_UP, data)


def _mark(tx: Tx, target: str, names: Sequence[str]) -> int:
    """The number up to which all events are settled for a target, moved on as far as possible."""
    this = alert_marks.c.target == target
    mark: int | None = tx.connection.execute(select(alert_marks.c.seq).where(this)).scalar()
    if mark is None:
        newest: int = tx.connection.execute(select(func.max(events.c.seq))).scalar() or 0
        insert_new(tx, alert_marks, [{"target": target, "seq": newest}])
        return newest
    old = (events.c.seq > mark) & (events.c.at < tx.now - SETTLED_AFTER)
    sent = select(alerts_sent.c.event_seq).where(alerts_sent.c.target == target)
    due = old & events.c.name.in_(names) & events.c.seq.not_in(sent)
    first_due = tx.connection.execute(select(func.min(events.c.seq)).where(due)).scalar()
    last_old = tx.connection.execute(select(func.max(events.c.seq)).where(old)).scalar()
    settled: int | None = last_old if first_due is None else first_due - 1
    if settled is None or settled <= mark:
        return mark
    tx.connection.execute(update(alert_marks).where(this).values(seq=settled))
    tx.connection.execute(
        delete(alerts_sent).where(alerts_sent.c.target == target, alerts_sent.c.event_seq <= settled)
    )
    return settled


def _noted(row: Any) -> NotedEvent:
    spec, data = row["spec"], row["data"]
    name = spec.get("name") if isinstance(spec, dict) else None
    return NotedEvent(
        seq=row["seq"],
        job_seq=row["job_seq"],
        at=row["at"],
        event=row["name"],
        data=data if isinstance(data, dict) else {},
        job_id=row["id"],
        name=name if isinstance(name, str) else None,
        job_kind=row["kind"],
        backend=row["backend"],
        tenant_id=row["tenant_id"],
        status=row["status"],
    )
