"""Why a job waits. Worked out when someone asks, so that it is true and costs the queue nothing."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, func, select

from nsai_work.lifecycle import JobStatus
from nsai_work.store.database import Tx
from nsai_work.store.schema import dependencies, jobs, lane_backends, lanes, limits, status_in


def wait_reasons(tx: Tx, rows: Sequence[Row[Any]]) -> dict[int, str]:
    """For jobs that are pending or queued: what they wait for, by seq."""
    reasons: dict[int, str] = {}
    by_lane: dict[int, str | None] = {}
    for row in rows:
        if row.run_at is not None:
            why = f" ({row.wait_reason})" if row.wait_reason else ""
            reasons[row.seq] = f"not before {row.run_at.isoformat(timespec='seconds')}{why}"
        elif row.status == JobStatus.PENDING:
            reasons[row.seq] = _needs(tx, row.seq)
        else:
            if row.lane_id not in by_lane:
                by_lane[row.lane_id] = _full(tx, row.lane_id)
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


def _full(tx: Tx, lane_id: int) -> str | None:
    lane = tx.connection.execute(select(lanes).where(lanes.c.id == lane_id)).one()
    running = select(func.count()).select_from(jobs).where(status_in(JobStatus.RUNNING))
    if lane.group_key is not None:
        count = tx.connection.execute(running.where(jobs.c.group_key == lane.group_key)).scalar_one()
        if count >= lane.group_max:
            return f"concurrency group is full ({count} of {lane.group_max} running)"
    quota = tx.connection.execute(_limit("tenant", lane.tenant_id, "*")).scalar()
    if quota is not None:
        count = tx.connection.execute(running.where(jobs.c.tenant_id == lane.tenant_id)).scalar_one()
        if count >= quota:
            return f"quota of tenant {lane.tenant_id} is used up ({count} of {quota} running)"
    return _models_full(tx, lane)


def _limit(scope: str, key: str, model: str) -> Any:
    return select(limits.c.max_running).where(
        limits.c.scope == scope, limits.c.key == key, limits.c.model == model, limits.c.max_running.is_not(None)
    )


def _models_full(tx: Tx, lane: Row[Any]) -> str | None:
    """The reason if every backend's limit is reached. Credentials that workers renamed are not seen here."""
    names = tx.connection.execute(
        select(lane_backends.c.backend)
        .where(lane_backends.c.lane_id == lane.id)
        .order_by(lane_backends.c.preference)
    )
    reasons = [_model_full(tx, name, lane.model) for name in names.scalars()]
    return None if None in reasons or not reasons else reasons[0]


def _model_full(tx: Tx, credential: str, model: str) -> str | None:
    for name in ("*", model):
        most = tx.connection.execute(_limit("model", credential, name)).scalar()
        if most is None:
            continue
        running = select(func.count()).select_from(jobs)
        running = running.where(status_in(JobStatus.RUNNING), jobs.c.credential == credential)
        if name != "*":
            running = running.where(jobs.c.model == name)
        count = tx.connection.execute(running).scalar_one()
        if count >= most:
            what = "all models" if name == "*" else name
            return f"limit of {credential} for {what} is reached ({count} of {most} running)"
    return None
