"""Single-statement claim (PostgreSQL) for the common case: one candidate lane, no limits, nothing newly due.

The statement finds the lane, locks and updates the jobs, and inserts attempts and events. Its twin for all other
cases is ``general.claim``; tests/integration/store/test_twins.py holds the rows of both equal.
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

from nsai_work.job import STATE_FIELDS
from nsai_work.lifecycle import JobStatus
from nsai_work.store.claim.candidates import FACTS, lanes_for, times
from nsai_work.store.engine.columns import UtcTime
from nsai_work.store.engine.database import Tx
from nsai_work.store.engine.pg_statement import PgStatement
from nsai_work.store.lanes import ready_in
from nsai_work.store.maintenance.leases import milliseconds
from nsai_work.store.maintenance.scheduler import time_to_deadline
from nsai_work.store.records import Claim, ClaimRequest, Selection
from nsai_work.store.rows import job_of
from nsai_work.store.schema import attempts, events, jobs, specs

_NOW: Final = bindparam("now", type_=UtcTime())
_RETURNED: Final = ("seq", "id", "credential", *sorted(STATE_FIELDS))
_ZERO: Final[ColumnElement[int]] = literal_column("0", Integer())
_ONE: Final[ColumnElement[int]] = literal_column("1", Integer())


def claim(tx: Tx, request: ClaimRequest) -> list[Claim] | None:
    """Claim jobs as ``general.claim`` does, in one statement.

    Returns None, and claims nothing, if the general path is needed: for several lanes, a limit, a concurrency
    group, a delay or deadline that is over, a selection by job ids, or one that excludes jobs.
    """
    if request.limit <= 0 or request.selection.job_ids is not None or request.selection.excluded:
        return None
    values = {
        **times(tx),
        "count": request.limit,
        "worker_id": request.worker_id,
        "lease_ttl_ms": milliseconds(request.lease_ttl_s),
        "grace_ms": milliseconds(request.grace_s),
    }
    rows = _statement(request.selection).execute(tx, values)
    if not rows[0]["simple"]:
        return None
    return [_claim_of(tx, row, request.worker_id) for row in rows if row["seq"] is not None]


def _claim_of(tx: Tx, row: Mapping[str, Any], worker_id: str) -> Claim:
    job = job_of(row)
    return Claim(
        job=job,
        seq=row["seq"],
        fence=row["fence"],
        attempt=row["attempt"],
        worker_id=worker_id,
        backend=row["chosen_backend"],
        credential=row["credential"],
        remaining_s=time_to_deadline(tx, job),
    )


@lru_cache(maxsize=64)
def _statement(selection: Selection) -> PgStatement:
    # cached: building it takes longer than running it
    candidates = lanes_for(selection, limited=False).cte("candidates")
    case = _case(candidates)
    lane = _lane(candidates, case)
    claimed = _claimed(lane)
    backend = select(lane.c.backend).scalar_subquery()
    attempt = insert(attempts).from_select(
        ["job_seq", "fence", "attempt", "worker_id", "backend", "started_at"],
        select(claimed.c.seq, claimed.c.fence, claimed.c.attempt, claimed.c.worker_id, backend, _NOW),
    )
    event = insert(events).from_select(
        ["job_seq", "at", "name", "data"],
        select(claimed.c.seq, _NOW, _literal(f"job.{JobStatus.RUNNING}"), _event_data(claimed, backend)),
    )
    returned = (claimed.c[name] for name in _RETURNED)
    statement = (
        select(case.c.simple, *returned, specs.c.spec, backend.label("chosen_backend"))
        .select_from(
            case.outerjoin(claimed, literal_column("true")).outerjoin(specs, specs.c.job_seq == claimed.c.seq)
        )
        .order_by(claimed.c.seq)
        .add_cte(attempt.cte("attempt_added"), event.cte("event_added"))
    )
    return PgStatement(statement)


def _case(candidates: CTE) -> CTE:
    """A row that says whether this is the simple case, in which at most one lane has ready jobs."""
    facts = FACTS.cte("facts")
    counts = select(
        func.count(candidates.c.id.distinct()).label("ready"), func.count(candidates.c.group_key).label("grouped")
    )
    ready = counts.where(candidates.c.front.is_not(None)).subquery()
    simple = and_(~facts.c.due, ~facts.c.limits_set, ready.c.ready <= _ONE, ready.c.grouped == _ZERO)
    joined = facts.join(ready, literal_column("true"))
    return select(simple.label("simple")).select_from(joined).cte("simple_case")


def _lane(candidates: CTE, case: CTE) -> CTE:
    """The lane to claim from, with its preferred backend."""
    columns = (candidates.c.id, candidates.c.backend, candidates.c.credential)
    simple = select(case.c.simple).scalar_subquery()
    lane = select(*columns).where(candidates.c.front.is_not(None), simple)
    return lane.order_by(candidates.c.preference).limit(_ONE).cte("lane")


def _claimed(lane: CTE) -> CTE:
    lane_id = select(lane.c.id).scalar_subquery()
    front = (
        select(jobs.c.seq)
        .where(*ready_in(lane_id))
        .order_by(jobs.c.seq)
        .limit(bindparam("count", type_=Integer()))
        .with_for_update(of=jobs, skip_locked=True)
        .cte("front")
    )
    claimed = update(jobs).where(jobs.c.seq == front.c.seq).values(**_new_values(lane))
    return claimed.returning(*(jobs.c[name] for name in _RETURNED)).cte("claimed")


def _new_values(lane: CTE) -> dict[str, Any]:
    return {
        "status": _literal(JobStatus.RUNNING),
        "fence": jobs.c.fence + _ONE,
        "attempt": jobs.c.attempt + _ONE,
        "beat": _ZERO,
        "lease_ttl_ms": bindparam("lease_ttl_ms", type_=BigInteger()),
        "grace_ms": bindparam("grace_ms", type_=BigInteger()),
        "worker_id": bindparam("worker_id", type_=String()),
        "credential": select(lane.c.credential).scalar_subquery(),
        "started_at": func.coalesce(jobs.c.started_at, _NOW),
        "delayed_since": null(),
        "wait_reason": null(),
    }


def _event_data(claimed: CTE, backend: ColumnElement[str]) -> ColumnElement[str]:
    data = {
        "from": _literal(JobStatus.QUEUED),
        "to": _literal(JobStatus.RUNNING),
        "fence": claimed.c.fence,
        "attempt": claimed.c.attempt,
        "worker_id": claimed.c.worker_id,
        "backend": backend,
    }
    pairs = [part for name, value in data.items() for part in (_literal(name), value)]
    return cast(func.json_build_object(*pairs), Text())


def _literal(text: str) -> ColumnElement[str]:
    # not a parameter, which would be sent with each execution
    return literal_column(f"'{text}'", Text())
