"""Why a job waits. Worked out when someone asks, so that it is true and costs the queue nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select

from nsai_work.lifecycle import JobStatus
from nsai_work.store.claim.limits import ALL_MODELS, LimitKey, running_under, shared_limits
from nsai_work.store.engine.database import Tx
from nsai_work.store.maintenance.workers import accounts
from nsai_work.store.schema import dependencies, jobs, lane_backends, lanes


def wait_reasons(tx: Tx, rows: Sequence[Row[Any]]) -> dict[int, str]:
    """For jobs that are pending or queued: what they wait for, by seq."""
    reasons: dict[int, str] = {}
    by_lane: dict[int, str | None] = {}
    bounds = _bounds(tx)
    for row in rows:
        if row.run_at is not None:
            why = f" ({row.wait_reason})" if row.wait_reason else ""
            reasons[row.seq] = f"not before {row.run_at.isoformat(timespec='seconds')}{why}"
        elif row.status == JobStatus.PENDING:
            reasons[row.seq] = _needs(tx, row.seq)
        else:
            if row.lane_id not in by_lane:
                by_lane[row.lane_id] = _full(tx, bounds, row.lane_id)
            reason = by_lane[row.lane_id] or row.wait_reason
            if reason is not None:
                reasons[row.seq] = reason
    return reasons


def _needs(tx: Tx, seq: int) -> str:
    statement = (
        select(jobs.c.id)
        .join_from(dependencies, jobs, jobs.c.seq == dependencies.c.needs_seq)
        .where(dependencies.c.job_seq == seq, jobs.c.status != str(JobStatus.SUCCEEDED))
        .order_by(jobs.c.seq)
    )
    names = tx.connection.execute(statement).scalars().all()
    return f"depends on {', '.join(names)}" if names else "about to be queued"


@dataclass(frozen=True, slots=True)
class _Bounds:
    """The limits that are set, and by backend the accounts whose limits are asked for."""

    most: Mapping[LimitKey, int]
    accounts: Mapping[str, Sequence[str]]


def _bounds(tx: Tx) -> _Bounds:
    most = {(one.scope, one.key, one.model): one.max_running or 0 for one in shared_limits(tx)}
    return _Bounds(most, accounts(tx) if any(scope == "model" for scope, _, _ in most) else {})


def _full(tx: Tx, bounds: _Bounds, lane_id: int) -> str | None:
    lane = tx.connection.execute(select(lanes).where(lanes.c.id == lane_id)).one()
    if lane.group_key is not None:
        count = running_under(tx, ("group", lane.group_key, ALL_MODELS))
        if count >= lane.group_max:
            return f"concurrency group is full ({count} of {lane.group_max} running)"
    quota = _reached(tx, bounds, ("tenant", lane.tenant_id, ALL_MODELS))
    if quota is not None:
        return f"quota of tenant {lane.tenant_id} is used up ({quota})"
    return _models_full(tx, bounds, lane) if bounds.most else None


def _reached(tx: Tx, bounds: _Bounds, key: LimitKey) -> str | None:
    """How many run of how many, if there is such a limit and it is reached."""
    most = bounds.most.get(key)
    if most is None:
        return None
    count = running_under(tx, key)
    return f"{count} of {most} running" if count >= most else None


def _models_full(tx: Tx, bounds: _Bounds, lane: Row[Any]) -> str | None:
    """The reason if the limit of every account is reached that a worker could use for this lane."""
    names = tx.connection.execute(
        select(lane_backends.c.backend)
        .where(lane_backends.c.lane_id == lane.id)
        .order_by(lane_backends.c.preference)
    )
    reasons = [
        _model_full(tx, bounds, credential, lane.model)
        for backend in names.scalars()
        for credential in bounds.accounts.get(backend, [backend])
    ]
    return None if None in reasons or not reasons else reasons[0]


def _model_full(tx: Tx, bounds: _Bounds, credential: str, model: str) -> str | None:
    for name in (ALL_MODELS, model):
        counts = _reached(tx, bounds, ("model", credential, name))
        if counts is not None:
            what = "all models" if name == ALL_MODELS else name
            return f"limit of {credential} for {what} is reached ({counts})"
    return None
