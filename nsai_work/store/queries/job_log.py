"""The newest entries of the event logs, without the optimizer steps, and how far a log is."""

from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import Select, func, select

from nsai_work.store.engine.database import Tx
from nsai_work.store.queries.jobs import event_rows, seq_of
from nsai_work.store.records import EventRow
from nsai_work.store.schema import NO_STEP, STEP, events, jobs

MAX_SEARCHED: Final = 20_000
"""The number of newest events among which ``newest_events`` looks for those of any job."""


def last_event(tx: Tx, seq: int | None = None) -> int:
    """The highest seq of the events of a job, or of all jobs; 0 without any."""
    newest = select(func.max(events.c.seq))
    if seq is not None:
        newest = newest.where(events.c.job_seq == seq)
    return tx.connection.execute(newest).scalar() or 0


def job_log(tx: Tx, seq: int, *, before: int | None = None, limit: int) -> list[EventRow]:
    """The newest events of a job except its steps, in order; those below ``before``, if given."""
    statement = _events().where(events.c.job_seq == seq, NO_STEP)
    if before is not None:
        statement = statement.where(events.c.seq < before)
    return _newest(tx, statement, limit)


def past_events(tx: Tx, job_id: str, tail: int) -> tuple[list[EventRow], list[EventRow]]:
    """The events of a job so far: those from which its progress follows, in order, and the last ``tail``. Of the
    steps before these there is the newest alone. Raises JobNotFound."""
    seq = seq_of(tx, job_id)
    last = _newest(tx, _events().where(events.c.job_seq == seq), tail)
    before = events.c.seq < (last[0].seq if last else 0)
    own = _events().where(events.c.job_seq == seq, before)
    others = event_rows(tx.connection.execute(own.where(NO_STEP).order_by(events.c.seq)))
    steps = _newest(tx, own.where(events.c.name == STEP), 1)
    return sorted([*others, *steps], key=lambda event: event.seq), last


def newest_step(tx: Tx, seq: int) -> EventRow | None:
    """The newest step event of a job; None before the first."""
    found = _newest(tx, _events().where(events.c.job_seq == seq, events.c.name == STEP), 1)
    return found[0] if found else None


def newest_events(tx: Tx, names: Collection[str], job_seqs: Collection[int], *, limit: int) -> list[EventRow]:
    """The newest events with one of these names, in order: of these jobs, and of others among the newest events."""
    named = _events().where(tx.one_of(events.c.name, names))
    recent = _newest(tx, named.where(events.c.seq > last_event(tx) - MAX_SEARCHED), limit)
    own = [_newest(tx, named.where(events.c.job_seq == seq, NO_STEP), limit) for seq in job_seqs]
    found = {event.seq: event for rows in (recent, *own) for event in rows}
    return sorted(found.values(), key=lambda event: (event.at, event.seq))[-limit:]


def _events() -> Select[Any]:
    return select(events, jobs.c.id.label("job_id")).join_from(events, jobs, jobs.c.seq == events.c.job_seq)


def _newest(tx: Tx, statement: Select[Any], limit: int) -> list[EventRow]:
    return event_rows(tx.connection.execute(statement.order_by(events.c.seq.desc()).limit(limit)))[::-1]
