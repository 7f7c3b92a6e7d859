"""A claim in one statement, for what a worker finds most often: one lane, and no limit or delay to be looked after.

PostgreSQL looks, locks, takes and notes in one go. Where there is more to decide (several lanes, limits, a group, a
delay that has just ended) nothing is taken, and ``claiming`` decides it.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Integer,
    String,
    Text,
    and_,
    bindparam,
    cast,
    func,
    insert,
    literal_column,
    null,
    select,
    update,
)

from nsai_work.lifecycle import JobStatus
from nsai_work.store.claim.candidates import FACTS, lanes_for, times
from nsai_work.store.engine.columns import UtcTime
from nsai_work.store.engine.database import Tx
from nsai_work.store.engine.pg_statement import PgStatement
from nsai_work.store.lanes import ready_in
from nsai_work.store.records import Claim, ClaimRequest, Selection
from nsai_work.store.rows import STATE_FIELDS, job_of
from nsai_work.store.schema import attempts, events, jobs, specs

_NOW: Final = bindparam("now", type_=UtcTime())
_ANSWERED: Final = ("seq", "credential", *sorted(STATE_FIELDS))
_NONE: Final[ColumnElement[int]] = literal_column("0", Integer())
_ONE: Final[ColumnElement[int]] = literal_column("1", Integer())


def take(tx: Tx, request: ClaimRequest) -> list[Claim] | None:
    """As ``claiming.claim``, in one statement for PostgreSQL. None if there is more to decide; nothing is taken
    then."""
    if request.limit <= 0 or request.selection.job_ids is not None:
        return None
    values = {
        **times(tx),
        "count": request.limit,
        "worker_id": request.worker_id,
        "lease_ttl_ms": int(request.lease_ttl_s * 1000),
    }
    rows = _statement(request.selection).execute(tx, values)
    if not rows[0]["simple"]:
        return None
    return [_claim_of(row, request.worker_id) for row in rows if row["seq"] is not None]


def _claim_of(row: Mapping[str, Any], worker_id: str) -> Claim:
    return Claim(
        job=job_of(row),
        seq=row["seq"],
        fence=row["fence"],
        attempt=row["attempt"],
        worker_id=worker_id,
        backend=row["chosen"],
        credential=row["credential"],
    )


@lru_cache(maxsize=64)
def _statement(selection: Selection) -> PgStatement:
    # kept, because building it takes longer than running it
    found = lanes_for(selection, limited=False).cte("found")
    situation = _situation(found)
    lone = _lone_lane(found, situation)
    taken = _taken(lone)
    chosen = select(lone.c.backend).scalar_subquery()
    attempt = insert(attempts).from_select(
        ["job_seq", "fence", "attempt", "worker_id", "backend", "started_at"],
        select(taken.c.seq, taken.c.fence, taken.c.attempt, taken.c.worker_id, chosen, _NOW),
    )
    event = insert(events).from_select(
        ["job_seq", "at", "name", "data"],
        select(taken.c.seq, _NOW, _words(f"job.{JobStatus.RUNNING}"), _event_data(taken, chosen)),
    )
    answered = (taken.c[name] for name in _ANSWERED)
    statement = (
        select(situation.c.simple, *answered, specs.c.spec, chosen.label("chosen"))
        .select_from(
            situation.outerjoin(taken, literal_column("true")).outerjoin(specs, specs.c.job_seq == taken.c.seq)
        )
        .order_by(taken.c.seq)
        .add_cte(attempt.cte("noted"), event.cte("told"))
    )
    return PgStatement(statement)


def _situation(found: CTE) -> CTE:
    """One row: whether there is nothing to decide but how many jobs to take from the one lane that has any."""
    facts = FACTS.cte("facts")
    lanes_seen = select(
        func.count(found.c.id.distinct()).label("ready"), func.count(found.c.group_key).label("grouped")
    )
    seen = lanes_seen.where(found.c.front.is_not(None)).subquery()
    simple = and_(~facts.c.due, ~facts.c.limits_set, seen.c.ready <= _ONE, seen.c.grouped == _NONE)
    return select(simple.label("simple")).select_from(facts.join(seen, literal_column("true"))).cte("situation")


def _lone_lane(found: CTE, situation: CTE) -> CTE:
    """The lane to take from, on the backend that it prefers."""
    lone = select(found.c.id, found.c.backend, found.c.credential)
    simple = select(situation.c.simple).scalar_subquery()
    return lone.where(found.c.front.is_not(None), simple).order_by(found.c.preference).limit(_ONE).cte("lone")


def _taken(lone: CTE) -> CTE:
    lane_id = select(lone.c.id).scalar_subquery()
    front = (
        select(jobs.c.seq)
        .where(*ready_in(lane_id))
        .order_by(jobs.c.seq)
        .limit(bindparam("count", type_=Integer()))
        .with_for_update(of=jobs, skip_locked=True)
        .cte("front")
    )
    taken = update(jobs).where(jobs.c.seq == front.c.seq)
    return taken.values(**_owned(lone)).returning(*(jobs.c[name] for name in _ANSWERED)).cte("taken")


def _owned(lone: CTE) -> dict[str, Any]:
    return {
        "status": _words(JobStatus.RUNNING),
        "fence": jobs.c.fence + _ONE,
        "attempt": jobs.c.attempt + _ONE,
        "beat": _NONE,
        "lease_ttl_ms": bindparam("lease_ttl_ms", type_=BigInteger()),
        "worker_id": bindparam("worker_id", type_=String()),
        "credential": select(lone.c.credential).scalar_subquery(),
        "started_at": func.coalesce(jobs.c.started_at, _NOW),
        "delayed_since": null(),
        "wait_reason": null(),
    }


def _event_data(taken: CTE, chosen: ColumnElement[str]) -> ColumnElement[str]:
    data = {
        "from": _words(JobStatus.QUEUED),
        "to": _words(JobStatus.RUNNING),
        "fence": taken.c.fence,
        "attempt": taken.c.attempt,
        "worker_id": taken.c.worker_id,
        "backend": chosen,
    }
    pairs = [part for name, value in data.items() for part in (_words(name), value)]
    return cast(func.json_build_object(*pairs), Text())


def _words(text: str) -> ColumnElement[str]:
    # written out: a parameter has to be carried to and fro with each execution
    return literal_column(f"'{text}'", Text())
