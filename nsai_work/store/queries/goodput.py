"""The query of a job's goodput."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Final

from sqlalchemy import select

from nsai_work.goodput import Goodput, TimedEvent, account
from nsai_work.lifecycle import JobStatus
from nsai_work.payloads import JobKind
from nsai_work.store.engine.database import Tx
from nsai_work.store.queries.jobs import seq_of
from nsai_work.store.schema import events, jobs, status_in

_ROWS: Final = 2_000
MAX_RECENT: Final = 50
"""The number of ended training jobs of which the recent goodput is that."""


def goodput(tx: Tx, job_id: str, *, ending: bool = False) -> Goodput:
    """The wall time of a job by use, until now or its end. Reads all its events, a few at a time.

    ``ending`` is for a job that is about to end: the time since its last event is spent on that.

    Raises:
        JobNotFound: no job has the id.
    """
    end = [TimedEvent(tx.now, f"job.{JobStatus.SUCCEEDED}", {})] if ending else []
    return account(chain(_timed_events(tx, seq_of(tx, job_id)), end), tx.now)


def recent_goodput(tx: Tx) -> float | None:
    """The productive share of the wall time of the newest training jobs that succeeded; None if there is none."""
    ended = status_in(JobStatus.SUCCEEDED) & (jobs.c.kind == str(JobKind.TRAINING_STEP))
    results = tx.connection.execute(
        select(jobs.c.result).where(ended).order_by(jobs.c.seq.desc()).limit(MAX_RECENT)
    )
    productive = wall = 0.0
    for result in results.scalars():
        block = _mapping(_mapping(result).get("goodput"))
        wall_s, ratio = block.get("wall_s"), block.get("ratio")
        if isinstance(wall_s, int | float) and isinstance(ratio, int | float):
            wall += wall_s
            productive += wall_s * ratio
    return productive / wall if wall else None


def _timed_events(tx: Tx, job_seq: int) -> Iterator[TimedEvent]:
    statement = select(events.c.at, events.c.name, events.c.data).where(events.c.job_seq == job_seq)
    rows = tx.connection.execute(statement.order_by(events.c.seq).execution_options(yield_per=_ROWS))
    for at, name, data in rows:
        yield TimedEvent(at, name, _mapping(data))


def _mapping(data: Any) -> Mapping[str, Any]:
    return data if isinstance(data, Mapping) else {}
