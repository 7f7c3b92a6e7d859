"""Single-statement submit (PostgreSQL) for the common case: a few jobs that are ready at once, in existing lanes.

The statement locks and activates the lanes, draws the sequence numbers and inserts all rows: one round trip instead
of those of a transaction. Its twin for all other jobs is ``general.submit``; tests/integration/store/test_twins.py
holds the rows of both equal.
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
    literal,
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
from nsai_work.store.engine.notify import notify_ready
from nsai_work.store.engine.pg_statement import PgStatement, Processor, to_driver
from nsai_work.store.lanes import has_ready, ready_in
from nsai_work.store.lifecycle.wait_events import BEHIND
from nsai_work.store.records import Submitted
from nsai_work.store.rows import spec_of
from nsai_work.store.schema import events, job_numbers, jobs, lanes, specs
from nsai_work.store.submit.lanes import locked_by_key
from nsai_work.store.submit.rows import SUBMITTED, NewJob, job_row, new_job, submitted_data

MAX_JOBS: Final = 16
"""Above this number, arrays (``BulkWrite``) are faster than one JSON text."""

_OTHER_COLUMNS: Final[dict[str, TypeEngine[Any]]] = {
    "number": Integer(),
    "lane_key": lanes.c.key.type,
    "spec": specs.c.spec.type,
    "data": events.c.data.type,
    "behind_data": events.c.data.type,
}


def submit(tx: Tx, submitted: Sequence[Job]) -> list[Submitted] | None:
    """Store jobs as ``general.submit`` does, in one statement.

    Returns None, and stores nothing, if the general path is needed. For a job that exists already, the database
    raises a conflict.

    Raises:
        InvalidJob: a job cannot be stored; nothing is.
    """
    if len(submitted) > MAX_JOBS or not all(_is_plain(job) for job in submitted):
        return None
    checked = [new_job(tx, job) for job in submitted]
    if any(new.status is not JobStatus.QUEUED for new in checked):
        return None
    rows = [_row(tx, number, new) for number, new in enumerate(checked)]
    keys = list({row["lane_key"] for row in rows})
    values = {"keys": keys, "rows": json.dumps(rows, separators=(",", ":")), "now": tx.now}
    if not _statement(tuple(rows[0])).execute(tx, values)[0]["stored"]:
        return None
    return [Submitted(job.id, 0, JobStatus.QUEUED, job.priority, created=True) for job in submitted]


def _is_plain(job: Job) -> bool:
    return job.idempotency_key is None and not job.tags and not job.constraints.depends_on


def _row(tx: Tx, number: int, new: NewJob) -> dict[str, Any]:
    row = {
        **job_row(tx, new),
        "number": number,
        "lane_key": new.lane.digest,
        "spec": spec_of(new.job),
        "data": submitted_data(new, None),
        "behind_data": submitted_data(new, BEHIND),
    }
    for name, processor in _processors(tuple(row)):
        row[name] = processor(row[name])
    return row


@lru_cache(maxsize=8)
def _processors(names: tuple[str, ...]) -> tuple[tuple[str, Processor], ...]:
    """The columns whose values must be converted for JSON, with their conversions."""
    return tuple((name, processor) for name in names if (processor := to_driver(_type(name))) is not None)


def _type(name: str) -> TypeEngine[Any]:
    kind = _OTHER_COLUMNS[name] if name in _OTHER_COLUMNS else jobs.c[name].type
    # a cast to VARCHAR(n) would truncate a longer text, which the column itself refuses
    return Text() if type(kind) is String else kind


@lru_cache(maxsize=8)
def _statement(names: tuple[str, ...]) -> PgStatement:
    # cached: building it takes longer than running it
    locked = locked_by_key().cte("locked")
    new = _numbered(names, locked)
    job_columns = [name for name in names if name not in _OTHER_COLUMNS]
    job_values = (new.c.seq, new.c.lane_id, _wait_reason(new), *(new.c[name] for name in job_columns))
    event_name: ColumnElement[str] = literal_column(f"'{SUBMITTED}'")
    event_values = (
        new.c.seq,
        bindparam("now", type_=UtcTime()),
        event_name,
        case((new.c.behind, new.c.behind_data), else_=new.c.data),
    )
    inserts = (
        insert(jobs).from_select(["seq", "lane_id", "wait_reason", *job_columns], select(*job_values)),
        insert(specs).from_select(["job_seq", "spec"], select(new.c.seq, new.c.spec)),
        insert(events).from_select(["job_seq", "at", "name", "data"], select(*event_values).order_by(new.c.seq)),
    )
    statement = select(
        select(func.count()).select_from(new).scalar_subquery().label("stored"),
        case((exists().select_from(new) & _none_is_ready(locked), notify_ready())).label("notified"),
    )
    parts = [part.cte(f"inserted_{index}") for index, part in enumerate(inserts)]
    return PgStatement(statement.add_cte(_activated(locked), *parts))


def _wait_reason(new: CTE) -> ColumnElement[str | None]:
    return case((new.c.behind, literal(BEHIND)))


def _activated(locked: CTE) -> CTE:
    # ``active`` as read under the lock, not as in the snapshot of the statement
    inactive = (lanes.c.id == locked.c.id) & ~locked.c.active
    return update(lanes).where(inactive).values(active=true()).cte("activated")


def _numbered(names: tuple[str, ...], locked: CTE) -> CTE:
    """The submitted rows with sequence numbers, in order; no rows if a lane is missing."""
    submitted = _as_table(names)
    found = select(func.count()).select_from(locked).scalar_subquery()
    all_found = found == func.cardinality(bindparam("keys", unique=False, type_=postgresql.ARRAY(String())))
    first = func.row_number().over(partition_by=locked.c.id, order_by=submitted.c.number) == 1
    behind = ~first | has_ready(locked.c.id)
    ordered = (
        select(locked.c.id.label("lane_id"), behind.label("behind"), *submitted.c)
        .join_from(submitted, locked, locked.c.key == submitted.c.lane_key)
        .where(all_found)
        .order_by(submitted.c.number)
        .subquery()
    )
    return select(job_numbers.next_value().label("seq"), *ordered.c).cte("numbered")


def _as_table(names: tuple[str, ...]) -> TableValuedAlias:
    rows = cast(bindparam("rows", type_=Text()), JSON())
    columns = [column(name, _type(name)) for name in names]
    return func.json_to_recordset(rows).table_valued(*columns).render_derived(name="submitted", with_types=True)


def _none_is_ready(locked: CTE) -> ColumnElement[bool]:
    """The condition that no job is ready in these lanes. While one is, workers are claiming until none is left."""
    return ~exists().where(locked.c.id == jobs.c.lane_id, *ready_in(locked.c.id))
