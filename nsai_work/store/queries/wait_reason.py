"""The reasons why jobs wait, computed on demand: always current, and no cost to claims."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select

from nsai_work.lifecycle import JobStatus
from nsai_work.store.claim.limits import ALL_MODELS, LimitKey, running_under, shared_limits
from nsai_work.store.engine.database import Tx
from nsai_work.store.maintenance.workers import credentials_in_use
from nsai_work.store.queries.declines import declined_by_all
from nsai_work.store.schema import dependencies, jobs, lane_backends, lanes


def wait_reasons(tx: Tx, rows: Sequence[Row[Any]]) -> dict[int, str]:
    """The wait reasons of pending and queued jobs, by seq."""
    reasons: dict[int, str] = {}
    by_lane: dict[int, str | None] = {}
    limits = _current_limits(tx)
    ready = [row for row in rows if row.status == JobStatus.QUEUED and row.run_at is None]
    declined = declined_by_all(tx, ready)
    for row in rows:
        if row.run_at is not None:
            why = f" ({row.wait_reason})" if row.wait_reason else ""
            reasons[row.seq] = f"not before {row.run_at.isoformat(timespec='seconds')}{why}"
        elif row.status == JobStatus.PENDING:
            reasons[row.seq] = _dependencies(tx, row.seq)
        else:
            if row.lane_id not in by_lane:
                by_lane[row.lane_id] = _full(tx, limits, row.lane_id)
            reason = declined.get(row.seq) or by_lane[row.lane_id] or row.wait_reason
            if reason is not None:
                reasons[row.seq] = reason
    return reasons


def _dependencies(tx: Tx, seq: int) -> str:
    statement = (
        select(jobs.c.id)
        .join_from(dependencies, jobs, jobs.c.seq == dependencies.c.needs_seq)
        .where(dependencies.c.job_seq == seq, jobs.c.status != str(JobStatus.SUCCEEDED))
        .order_by(jobs.c.seq)
    )
    names = tx.connection.execute(statement).scalars().all()
    return f"depends on {', '.join(names)}" if names else "about to be queued"


@dataclass(frozen=True, slots=True)
class _Limits:
    """The limits that are set, and the credentials in use by backend."""

    max_running: Mapping[LimitKey, int]
    credentials: Mapping[str, Sequence[str]]


def _current_limits(tx: Tx) -> _Limits:
    limits = {(limit.scope, limit.key, limit.model): limit.max_running or 0 for limit in shared_limits(tx)}
    return _Limits(limits, credentials_in_use(tx) if any(scope == "model" for scope, _, _ in limits) else {})


def _full(tx: Tx, limits: _Limits, lane_id: int) -> str | None:
    lane = tx.connection.execute(select(lanes).where(lanes.c.id == lane_id)).first()
    if lane is None:
        return "its lane is not in the store, which was changed by hand"
    if lane.group_key is not None:
        count = running_under(tx, ("group", lane.group_key, ALL_MODELS))
        if count >= lane.group_max:
            return f"concurrency group is full ({count} of {lane.group_max} running)"
    quota = _reached(tx, limits, ("tenant", lane.tenant_id, ALL_MODELS))
    if quota is not None:
        return f"quota of tenant {lane.tenant_id} is used up ({quota})"
    return _models_full(tx, limits, lane) if limits.max_running else None


def _reached(tx: Tx, limits: _Limits, key: LimitKey) -> str | None:
    """The use of a limit that is reached; None if it is not reached or not set."""
    limit = limits.max_running.get(key)
    if limit is None:
        return None
    count = running_under(tx, key)
    return f"{count} of {limit} running" if count >= limit else None


def _models_full(tx: Tx, limits: _Limits, lane: Row[Any]) -> str | None:
    """The reason, if the limits of all credentials that could run jobs of this lane are reached."""
    names = tx.connection.execute(
        select(lane_backends.c.backend)
        .where(lane_backends.c.lane_id == lane.id)
        .order_by(lane_backends.c.preference)
    )
    reasons = [
        _model_full(tx, limits, credential, lane.model)
        for backend in names.scalars()
        for credential in limits.credentials.get(backend, [backend])
    ]
    return None if None in reasons or not reasons else reasons[0]


def _model_full(tx: Tx, limits: _Limits, credential: str, model: str) -> str | None:
    for name in (ALL_MODELS, model):
        counts = _reached(tx, limits, ("model", credential, name))
        if counts is not None:
            models = "all models" if name == ALL_MODELS else name
            return f"limit of {credential} for {models} is reached ({counts})"
    return None
