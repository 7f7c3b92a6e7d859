"""Submit in one statement, for what most submissions bring: a few jobs that may run at once.

PostgreSQL finds and wakes their lanes, numbers them and writes all their rows in one go; so nothing travels to and
fro that a transaction of several statements needs. ``submitting`` is for all other jobs, and for those whose lane
has still to be made.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    CTE,
    JSON,
    ColumnElement,
    Integer,
    String,
    Text,
    bindparam,
    case,
    cast,
    column,
    exists,
    func,
    insert,
    literal_column,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.types import TypeEngine

from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.columns import UtcTime
from nsai_work.store.engine.database import Tx
from nsai_work.store.engine.notify import notice
from nsai_work.store.engine.pg_statement import PgStatement, Processor, to_driver
from nsai_work.store.lanes import locked_by_key, ready_in
from nsai_work.store.records import Submitted
from nsai_work.store.rows import spec_of
from nsai_work.store.schema import events, job_numbers, jobs, lanes, specs
from nsai_work.store.submit.rows import SUBMITTED, NewJob, arrival, job_row, submitted_data

MOST: Final = 16
"""More jobs than this are better sent as arrays than as one JSON text."""

_OTHERS: Final[dict[str, TypeEngine[Any]]] = {
    "number": Integer(),
    "lane_key": lanes.c.key.type,
    "spec": specs.c.spec.type,
    "data": events.c.data.type,
}


def place(tx: Tx, submitted: Sequence[Job]) -> list[Submitted] | None:
    """Store jobs as ``submitting.submit`` does, in one statement for PostgreSQL. None if they are none that can be
    stored so; nothing is stored then. One that is there already is a conflict, which the database raises.

    Raises:
        InvalidJob: a job cannot be stored; nothing is.
    """
    if len(submitted) > MOST or not all(_is_plain(job) for job in submitted):
        return None
    arrivals = [arrival(tx, job) for job in submitted]
    if any(one.status is not JobStatus.QUEUED for one in arrivals):
        return None
    rows = [_given(tx, number, one) for number, one in enumerate(arrivals)]
    keys = list({row["lane_key"] for row in rows})
    values = {"wanted": keys, "rows": json.dumps(rows, separators=(",", ":")), "now": tx.now}
    if not _statement(tuple(rows[0])).execute(tx, values)[0]["stored"]:
        return None
    return [Submitted(job.id, 0, JobStatus.QUEUED, job.priority, created=True) for job in submitted]


def _is_plain(job: Job) -> bool:
    return job.idempotency_key is None and not job.tags and not job.constraints.depends_on


def _given(tx: Tx, number: int, one: NewJob) -> dict[str, Any]:
    row = {
        **job_row(tx, one),
        "number": number,
        "lane_key": one.lane.digest,
        "spec": spec_of(one.job),
        "data": submitted_data(one),
    }
    for name, processor in _processors(tuple(row)):
        row[name] = processor(row[name])
    return row


@lru_cache(maxsize=8)
def _processors(names: tuple[str, ...]) -> tuple[tuple[str, Processor], ...]:
    """The columns whose values JSON does not have as they are, each with what makes them so."""
    return tuple((name, processor) for name in names if (processor := to_driver(_type(name))) is not None)


def _type(name: str) -> TypeEngine[Any]:
    kind = _OTHERS[name] if name in _OTHERS else jobs.c[name].type
    # a limit on its length would be silently kept here, where the column itself refuses a longer one
    return Text() if type(kind) is String else kind


@lru_cache(maxsize=8)
def _statement(names: tuple[str, ...]) -> PgStatement:
    # kept, because building it takes longer than running it
    here = locked_by_key().cte("here")
    arrived = _arrived(names, here)
    of_jobs = [name for name in names if name not in _OTHERS]
    job_values = (arrived.c.seq, arrived.c.lane_id, *(arrived.c[name] for name in of_jobs))
    submitted: ColumnElement[str] = literal_column(f"'{SUBMITTED}'")
    event_values = (arrived.c.seq, bindparam("now", type_=UtcTime()), submitted, arrived.c.data)
    added = (
        insert(jobs).from_select(["seq", "lane_id", *of_jobs], select(*job_values)),
        insert(specs).from_select(["job_seq", "spec"], select(arrived.c.seq, arrived.c.spec)),
        insert(events).from_select(
            ["job_seq", "at", "name", "data"], select(*event_values).order_by(arrived.c.seq)
        ),
    )
    statement = select(
        select(func.count()).select_from(arrived).scalar_subquery().label("stored"),
        case((exists().select_from(arrived) & _nobody_is_ready(here), notice())).label("told"),
    )
    parts = [one.cte(f"added_{place}") for place, one in enumerate(added)]
    return PgStatement(statement.add_cte(_awoken(here), *parts))


def _awoken(here: CTE) -> CTE:
    # what the lock found counts, not what the table looked like when the statement began
    asleep = (lanes.c.id == here.c.id) & ~here.c.active
    return update(lanes).where(asleep).values(active=true()).cte("awoken")


def _arrived(names: tuple[str, ...], here: CTE) -> CTE:
    """All that is given, numbered in its order; nothing if a lane is missing."""
    given = _as_table(names)
    found = select(func.count()).select_from(here).scalar_subquery()
    all_found = found == func.cardinality(bindparam("wanted", unique=False, type_=postgresql.ARRAY(String())))
    ordered = (
        select(here.c.id.label("lane_id"), *given.c)
        .join_from(given, here, here.c.key == given.c.lane_key)
        .where(all_found)
        .order_by(given.c.number)
        .subquery()
    )
    return select(job_numbers.next_value().label("seq"), *ordered.c).cte("arrived")


def _as_table(names: tuple[str, ...]) -> TableValuedAlias:
    rows = cast(bindparam("rows", type_=Text()), JSON())
    columns = [column(name, _type(name)) for name in names]
    return func.json_to_recordset(rows).table_valued(*columns).render_derived(name="given", with_types=True)


def _nobody_is_ready(here: CTE) -> ColumnElement[bool]:
    """Whether nothing is ready in these lanes. If something is, workers are at it, and go on until nothing is."""
    return ~exists().where(here.c.id == jobs.c.lane_id, *ready_in(here.c.id))
