"""The lanes from which a worker can claim now."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, and_, bindparam, case, exists, false, func, or_, select

from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.columns import UtcTime
from nsai_work.store.engine.database import PREPARED, Tx
from nsai_work.store.lanes import front_of
from nsai_work.store.maintenance.scheduler import (
    CLOCK_SKEW,
    clock_was_set_back,
    deadline_has_passed,
    run_at_has_passed,
)
from nsai_work.store.records import Selection
from nsai_work.store.schema import jobs, lane_backends, lanes, limits, status_in, turns

_DUE: Final = or_(
    exists().where(run_at_has_passed(bindparam("now", type_=UtcTime()))),
    exists().where(clock_was_set_back(bindparam("bound", type_=UtcTime()))),
    exists().where(deadline_has_passed(bindparam("now", type_=UtcTime()))),
)
# by scope, an index probe each: those of the groups are never deleted, and may be many
_LIMITS_SET: Final = or_(exists().where(limits.c.scope == "tenant"), exists().where(limits.c.scope == "model"))
FACTS: Final = select(_DUE.label("due"), _LIMITS_SET.label("limits_set"))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A lane with a ready job.

    ``backends`` are the lane's backends that the worker supports, in order of preference, each with the worker's
    credential there. If ``limited``, a limit applies and must be measured under a lock.
    """

    lane_id: int
    tenant_id: str
    rank: int
    model: str
    group_key: str | None
    group_max: int | None
    front: int
    limited: bool
    backends: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ClaimCandidates:
    """The candidate lanes of a claim, ordered by priority, then by the tenants' turns.

    ``due``: the delay or deadline of some waiting job is over and its row not updated yet. ``limits_set``: some
    limit is set, besides those of the lanes' groups.
    """

    lanes: Sequence[Candidate]
    due: bool
    limits_set: bool

    @property
    def limited(self) -> bool:
        """A limit may apply to a lane."""
        return self.limits_set or any(lane.group_key is not None for lane in self.lanes)


def statement_key(selection: Selection) -> Selection:
    """The part of a selection that determines the text of a statement; its job ids are a parameter, and excluded
    jobs do not exclude their lane."""
    return replace(selection, job_ids=None if selection.job_ids is None else (), excluded=())


def times(tx: Tx) -> dict[str, object]:
    """The parameters of ``FACTS``."""
    return {"now": tx.now, "bound": tx.now + CLOCK_SKEW}


def find_candidates(tx: Tx, selection: Selection, *, limited: bool) -> ClaimCandidates:
    """The candidates for a worker. Without ``limited``, a simpler query ignores the limits."""
    statement = _statement(statement_key(selection), limited)
    values = times(tx)
    if selection.job_ids is not None:
        lane_ids = select(jobs.c.lane_id).where(tx.one_of(jobs.c.id, selection.job_ids)).distinct()
        values["lane_ids"] = tx.connection.execute(lane_ids).scalars().all()
    rows = tx.connection.execute(statement, values).all()
    found: dict[int, list[Row[Any]]] = {}
    for row in rows:
        if row.id is not None:
            found.setdefault(row.id, []).append(row)
    return ClaimCandidates(
        [_candidate(same) for same in found.values()], bool(rows[0].due), bool(rows[0].limits_set)
    )


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


@lru_cache(maxsize=64)
def _statement(selection: Selection, limited: bool) -> Select[Any]:
    # cached: building it takes longer than running it
    found = lanes_for(selection, limited=limited).subquery()
    order = (found.c.rank, found.c.turn, found.c.front, found.c.id)
    facts = FACTS.subquery()
    both = facts.outerjoin(found, found.c.front.is_not(None))
    statement = select(facts, found).select_from(both).order_by(*order)
    return statement if selection.job_ids is not None else statement.execution_options(**PREPARED)


def lanes_for(selection: Selection, *, limited: bool) -> Select[Any]:
    """Active lanes of a selection, one row for each backend; ``front`` is null for a lane without ready jobs. With
    ``limited``, full lanes are left out."""
    credential = _credential(selection.backends)
    applies = exists().where(_applies(credential)).correlate(lanes, lane_backends)
    columns = (
        *(lanes.c[name] for name in ("id", "tenant_id", "rank", "model", "group_key", "group_max")),
        lane_backends.c.backend,
        lane_backends.c.preference,
        credential.label("credential"),
        turns.c.turn,
        front_of(lanes.c.id).label("front"),
        (applies if limited else false()).label("limited"),
    )
    lane = (
        select(*columns)
        .join_from(lanes, lane_backends, lane_backends.c.lane_id == lanes.c.id)
        .join(turns, and_(turns.c.tenant_id == lanes.c.tenant_id, turns.c.rank == lanes.c.rank))
        .where(lanes.c.active)
    )
    if selection.backends is not None:
        lane = lane.where(_one_of(lane_backends.c.backend, [name for name, _ in selection.backends]))
    if selection.kinds is not None:
        lane = lane.where(_one_of(lanes.c.kind, [str(kind) for kind in selection.kinds]))
    if selection.priorities is not None:
        lane = lane.where(_one_of(lanes.c.rank, [priority.rank for priority in selection.priorities]))
    if selection.job_ids is not None:
        lane = lane.where(lanes.c.id.in_(bindparam("lane_ids", expanding=True)))
    if limited:
        lane = lane.where(~_group_is_full(), ~_limit_is_reached(credential))
    return lane


def _one_of(column: ColumnElement[Any], values: Sequence[Any]) -> ColumnElement[bool]:
    # separate comparisons instead of IN, which would expand at each execution
    return or_(false(), *(column == value for value in values))


def _credential(backends: tuple[tuple[str, str], ...] | None) -> ColumnElement[str]:
    named = {backend: name for backend, name in backends or () if name != backend}
    if not named:
        return lane_backends.c.backend
    return case(named, value=lane_backends.c.backend, else_=lane_backends.c.backend)


def _applies(credential: ColumnElement[str]) -> ColumnElement[bool]:
    """The condition that a row of ``nsai_limits`` applies to this lane on this backend."""
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
