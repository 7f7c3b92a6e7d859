"""Which lanes a worker could take from now."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, case, exists, func, or_, select

from nsai_work.lifecycle import JobStatus
from nsai_work.store.database import Tx
from nsai_work.store.lanes import front_of
from nsai_work.store.records import Wanted
from nsai_work.store.schema import jobs, lane_backends, lanes, limits, status_in, turns


@dataclass(frozen=True, slots=True)
class Candidate:
    """A lane with a ready job. ``backends`` are those it may use and the worker has, best first, each with the
    credential the worker uses there. ``limited``: some limit applies, and must be measured under a lock."""

    lane_id: int
    tenant_id: str
    rank: int
    model: str
    group_key: str | None
    group_max: int | None
    front: int
    limited: bool
    backends: tuple[tuple[str, str], ...]


def find_candidates(tx: Tx, wanted: Wanted) -> list[Candidate]:
    """The lanes that are not full, the most urgent first, then by the tenants' turns."""
    rows = tx.connection.execute(_statement(wanted)).all()
    found: dict[int, list[Row[Any]]] = {}
    for row in rows:
        found.setdefault(row.id, []).append(row)
    return [_candidate(same) for same in found.values()]


def _candidate(rows: Sequence[Row[Any]]) -> Candidate:
    first = rows[0]
    return Candidate(
        lane_id=first.id,
        tenant_id=first.tenant_id,
        rank=first.rank,
        model=first.model,
        group_key=first.group_key,
        group_max=first.group_max,
        front=first.front,
        limited=first.group_key is not None or any(row.limited for row in rows),
        backends=tuple((row.backend, row.credential) for row in sorted(rows, key=lambda row: row.preference)),
    )


def _statement(wanted: Wanted) -> Select[Any]:
    credential = _credential(wanted)
    conditions: list[ColumnElement[bool]] = [lanes.c.active, *_asked_for(wanted)]
    lane = (
        select(
            lanes.c.id,
            lanes.c.tenant_id,
            lanes.c.rank,
            lanes.c.model,
            lanes.c.group_key,
            lanes.c.group_max,
            lane_backends.c.backend,
            lane_backends.c.preference,
            credential.label("credential"),
            turns.c.turn,
            front_of(lanes.c.id).label("front"),
            exists().where(_applies(credential)).correlate(lanes, lane_backends).label("limited"),
        )
        .join_from(lanes, lane_backends, lane_backends.c.lane_id == lanes.c.id)
        .join(turns, and_(turns.c.tenant_id == lanes.c.tenant_id, turns.c.rank == lanes.c.rank))
        .where(*conditions, ~_group_is_full(), ~_limit_is_reached(credential))
        .subquery()
    )
    return select(lane).where(lane.c.front.is_not(None)).order_by(lane.c.rank, lane.c.turn, lane.c.front, lane.c.id)


def _credential(wanted: Wanted) -> ColumnElement[str]:
    named = {backend: name for backend, name in (wanted.backends or {}).items() if name != backend}
    if not named:
        return lane_backends.c.backend
    return case(named, value=lane_backends.c.backend, else_=lane_backends.c.backend)


def _asked_for(wanted: Wanted) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.backends is not None:
        conditions.append(lane_backends.c.backend.in_(sorted(wanted.backends)))
    if wanted.kinds is not None:
        conditions.append(lanes.c.kind.in_([str(kind) for kind in wanted.kinds]))
    if wanted.priorities is not None:
        conditions.append(lanes.c.rank.in_([priority.rank for priority in wanted.priorities]))
    if wanted.job_ids is not None:
        theirs = select(jobs.c.lane_id).where(jobs.c.id.in_(list(wanted.job_ids)))
        conditions.append(lanes.c.id.in_(theirs.scalar_subquery()))
    return conditions


def _applies(credential: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether a row of ``nsai_limits`` binds this lane on this backend."""
    tenant = and_(limits.c.scope == "tenant", limits.c.key == lanes.c.tenant_id)
    model = and_(limits.c.scope == "model", limits.c.key == credential, limits.c.model.in_(["*", lanes.c.model]))
    return and_(limits.c.max_running.is_not(None), or_(tenant, model))


def _group_is_full() -> ColumnElement[bool]:
    running = (
        select(func.count())
        .select_from(jobs)
        .where(status_in(JobStatus.RUNNING), jobs.c.group_key == lanes.c.group_key)
        .correlate(lanes)
        .scalar_subquery()
    )
    return and_(lanes.c.group_key.is_not(None), running >= lanes.c.group_max)


def _limit_is_reached(credential: ColumnElement[str]) -> ColumnElement[bool]:
    running = select(func.count()).select_from(jobs).where(status_in(JobStatus.RUNNING))
    of_tenant = running.where(jobs.c.tenant_id == limits.c.key)
    of_credential = running.where(jobs.c.credential == limits.c.key)
    of_model = of_credential.where(jobs.c.model == limits.c.model)
    count = case(
        (limits.c.scope == "tenant", of_tenant.correlate(limits).scalar_subquery()),
        (limits.c.model == "*", of_credential.correlate(limits).scalar_subquery()),
        else_=of_model.correlate(limits).scalar_subquery(),
    )
    return exists().where(_applies(credential), count >= limits.c.max_running).correlate(lanes, lane_backends)
