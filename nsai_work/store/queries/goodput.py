"""The query of a job's goodput."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Final

from sqlalchemy import select

from nsai_work.goodput import Goodput, TimedEvent, account
from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.database import Tx
from nsai_work.store.queries.jobs import seq_of
from nsai_work.store.schema import events

_ROWS: Final = 2_000


def goodput(tx: Tx, job_id: str, *, ending: bool = False) -> Goodput:
    """The wall time of a job by use, until now or its end. Reads all its events, a few at a time.

    ``ending`` is for a job that is about to end: the time since its last event is spent on that.

    Raises:
        JobNotFound: no job has the id.
    """
    end = [TimedEvent(tx.now, f"job.{JobStatus.SUCCEEDED}", {})] if ending else []
    return account(chain(_timed_events(tx, seq_of(tx, job_id)), end), tx.now)


def _timed_events(tx: Tx, job_seq: int) -> Iterator[TimedEvent]:
    statement = select(events.c.at, events.c.name, events.c.data).where(events.c.job_seq == job_seq)
    rows = tx.connection.execute(statement.order_by(events.c.seq).execution_options(yield_per=_ROWS))
    for at, name, data in rows:
        yield TimedEvent(at, name, _mapping(data))


def _mapping(data: Any) -> Mapping[str, Any]:
    return data if isinstance(data, Mapping) else {}
