"""The query of a job's goodput."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Final

from sqlalchemy import Select, and_, func, select, true

from nsai_work.lifecycle import JobStatus
from nsai_work.payloads import JobKind
from nsai_work.store.engine.database import Tx
from nsai_work.store.queries.jobs import seq_of
from nsai_work.store.schema import STEP, events, jobs, status_in
from nsai_work.telemetry.goodput import Goodput, TimedEvent, account

MAX_RECENT: Final = 50
"""The number of ended training jobs of which the recent goodput is that."""


def goodput(tx: Tx, job_id: str, *, ending: bool = False) -> Goodput:
    """The wall time of a job by use, until now or its end. Of steps that follow each other, all of them new, the
    first and the last are read.

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
    """The events of a job by which its time is accounted."""
    furthest, began = 0, 0
    for seq, at, name, data in tx.connection.execute(_borders(job_seq)).all():
        event = TimedEvent(at, name, _mapping(data))
        step = event.data.get("step") if name == STEP else None
        if not isinstance(step, int):
            began = 0
        elif began:
            # the last of a row of steps whose first had been recorded before: somewhere between they are new
            yield from _steps_between(tx, job_seq, began, seq)
            began = 0
        elif step <= furthest:
            began = seq
        furthest = max(furthest, step) if isinstance(step, int) else furthest
        yield event


def _borders(job_seq: int) -> Select[Any]:
    """The events of a job, in order, without the steps that are between two others."""
    before = func.lag(events.c.name).over(order_by=events.c.seq)
    after = func.lead(events.c.name).over(order_by=events.c.seq)
    named = select(events.c.seq, events.c.name, before.label("before"), after.label("after"))
    own = named.where(events.c.job_seq == job_seq).subquery()
    inner = and_(own.c.name == STEP, own.c.before == STEP, own.c.after == STEP)
    chosen = select(events.c.seq, events.c.at, events.c.name, events.c.data)
    shown = chosen.join_from(own, events, events.c.seq == own.c.seq).where(func.coalesce(~inner, true()))
    return shown.order_by(events.c.seq)


def _steps_between(tx: Tx, job_seq: int, first: int, last: int) -> Iterator[TimedEvent]:
    between = (events.c.seq > first) & (events.c.seq < last)
    statement = select(events.c.at, events.c.name, events.c.data).where(events.c.job_seq == job_seq, between)
    for at, name, data in tx.connection.execute(statement.order_by(events.c.seq)).all():
        yield TimedEvent(at, name, _mapping(data))


def _mapping(data: Any) -> Mapping[str, Any]:
    return data if isinstance(data, Mapping) else {}
