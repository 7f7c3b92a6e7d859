"""The reasons why jobs wait: computed when jobs are read, and recorded by the maintenance."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Final

from sqlalchemy import Row, Select, func, select

from nsai_work.lifecycle import JobStatus
from nsai_work.store.claim.limits import ALL_MODELS, LimitKey, running_under, shared_limits
from nsai_work.store.damaged import priority_of
from nsai_work.store.engine.database import PREPARED, Tx
from nsai_work.store.lanes import front_of, ready_in
from nsai_work.store.lifecycle.wait_events import BEHIND, depends_on, not_before
from nsai_work.store.maintenance.workers import credentials_in_use, present_workers, worker_states
from nsai_work.store.records import WorkerRow
from nsai_work.store.schema import dependencies, jobs, lanes, turns, workers
from nsai_work.store.wait_reasons.declines import backends_of_lanes, declined_by_all
from nsai_work.store.wait_reasons.requeue import requeue_reason

MAX_COUNTED: Final = 1_000
"""The number of jobs ahead of a job, up to which they are counted."""
MAX_EXAMINED: Final = 50
"""The number of lanes ahead of a lane that are examined."""
NO_WORKER: Final = "no worker is alive"
ORPHANED: Final = "its worker is gone, and no worker is alive to take it over"
BUSY: Final = "waits for a free worker"
TURN: Final = "it is the turn of another tenant"
SHARE: Final = "it is the turn of another priority"


def wait_reasons(tx: Tx, rows: Sequence[Row[Any]], *, count: bool = False) -> dict[int, str]:
    """The wait reasons of pending and queued jobs, by seq. With ``count``, the jobs ahead of a job are counted,
    which takes longer the more they are."""
    reasons: dict[int, str] = {}
    ready = [row for row in rows if row.status == JobStatus.QUEUED and row.run_at is None]
    workers = present_workers(tx) if ready else []
    queue = _Queue(tx, {row.lane_id for row in ready}, workers) if ready else None
    declined = declined_by_all(tx, ready, workers)
    for row in rows:
        if row.run_at is not None:
            # the recorded reason of a pending job is its start time
            why = f" ({row.wait_reason})" if row.wait_reason and row.status == JobStatus.QUEUED else ""
            reasons[row.seq] = f"{not_before(row.run_at)}{why}"
        elif row.status == JobStatus.PENDING:
            reasons[row.seq] = _dependencies(tx, row.seq)
        elif queue is not None:
            reasons[row.seq] = declined.get(row.seq) or queue.reason(row, count)
    return reasons


def orphan_reasons(tx: Tx, rows: Sequence[Row[Any]]) -> dict[int, str]:
    """The reasons of running jobs whose workers have died while none is alive that would take them over, by seq."""
    present = present_workers(tx)
    states = worker_states(tx, present)
    dead = {row.worker_id for row in rows if row.worker_id and states.get(row.worker_id) != "alive"}
    if not dead or any(states[worker.id] == "alive" and worker.job_ids is None for worker in present):
        return {}
    registered = set(tx.connection.execute(select(workers.c.id).where(tx.one_of(workers.c.id, dead))).scalars())
    return {row.seq: ORPHANED for row in rows if row.worker_id in registered}


def _dependencies(tx: Tx, seq: int) -> str:
    statement = (
        select(jobs.c.id)
        .join_from(dependencies, jobs, jobs.c.seq == dependencies.c.needs_seq)
        .where(dependencies.c.job_seq == seq, jobs.c.status != str(JobStatus.SUCCEEDED))
        .order_by(jobs.c.seq)
    )
    names = tx.connection.execute(statement).scalars().all()
    return depends_on(names) if names else "about to be queued"


@dataclass(frozen=True, slots=True)
class _Limits:
    """The limits that are set, and the credentials in use by backend."""

    max_running: Mapping[LimitKey, int]
    credentials: Mapping[str, Sequence[str]]


class _Queue:
    """The workers, the limits and the ready lanes, from which the reasons of ready jobs follow."""

    def __init__(self, tx: Tx, lane_ids: set[int], workers: Sequence[WorkerRow]) -> None:
        self._tx = tx
        self._workers = workers
        self._limits = _current_limits(tx)
        self._ready = {row.id: row for row in _ready_lanes(tx)}
        self._blocked: dict[int, str | None] = {}
        self._examine(lane_ids)

    def reason(self, row: Row[Any], count: bool) -> str:
        """The reason why a ready job has not started."""
        return self._blocked[row.lane_id] or self._why_behind(row, count) or self._why_not_yet(row)

    def _examine(self, lane_ids: Collection[int]) -> None:
        """Find out why no job of these lanes can start; None if one could."""
        unknown = set(lane_ids) - self._blocked.keys()
        if not unknown:
            return
        backends = backends_of_lanes(self._tx, unknown)
        for lane in self._tx.connection.execute(select(lanes).where(self._tx.one_of(lanes.c.id, unknown))):
            full = _full(self._tx, self._limits, lane, backends[lane.id])
            self._blocked[lane.id] = full or _no_worker(self._workers, lane, backends[lane.id])

    def _why_behind(self, row: Row[Any], count: bool) -> str | None:
        """The reason, if jobs of its lane are ahead of a job."""
        lane = self._ready.get(row.lane_id)
        if lane is None or row.seq <= lane.front:
            return None
        if not count:
            return BEHIND
        ahead = select(jobs.c.seq).where(*ready_in(row.lane_id), jobs.c.seq < row.seq).limit(MAX_COUNTED)
        number = self._tx.connection.execute(select(func.count()).select_from(ahead.subquery())).scalar_one()
        more = " or more" if number == MAX_COUNTED else ""
        return f"{number}{more} {'job is' if number == 1 else 'jobs are'} before it"

    def _why_not_yet(self, row: Row[Any]) -> str:
        """The reason why the front job of a lane, which could start, has not started."""
        own = self._ready.get(row.lane_id)
        if own is not None:
            if self._any_can_start(lane for lane in self._ready.values() if _has_turn_before(lane, own)):
                return TURN
            if self._any_can_start(lane for lane in self._ready.values() if lane.rank < own.rank):
                return SHARE
        return requeue_reason(self._tx, row) or BUSY

    def _any_can_start(self, ahead: Iterable[Row[Any]]) -> bool:
        lane_ids = [lane.id for lane in islice(ahead, MAX_EXAMINED)]
        self._examine(lane_ids)
        return any(self._blocked[lane_id] is None for lane_id in lane_ids)


def _has_turn_before(lane: Row[Any], own: Row[Any]) -> bool:
    same_priority = lane.rank == own.rank and lane.tenant_id != own.tenant_id
    return same_priority and (lane.turn, lane.front) < (own.turn, own.front)


def _ready_lanes(tx: Tx) -> Sequence[Row[Any]]:
    """The active lanes with a ready job, as claims see them."""
    return tx.connection.execute(_ready_lanes_statement()).all()


@lru_cache
def _ready_lanes_statement() -> Select[Any]:
    same = (turns.c.tenant_id == lanes.c.tenant_id) & (turns.c.rank == lanes.c.rank)
    found = select(lanes.c.id, lanes.c.tenant_id, lanes.c.rank, turns.c.turn, front_of(lanes.c.id).label("front"))
    active = found.join_from(lanes, turns, same).where(lanes.c.active).subquery()
    return select(active).where(active.c.front.is_not(None)).execution_options(**PREPARED)


def _no_worker(workers: Sequence[WorkerRow], lane: Row[Any], backends: Sequence[str]) -> str | None:
    """The reason, if no worker that is alive is there for jobs of this lane."""
    # a process that works on its own jobs claims them at once
    present = [worker for worker in workers if worker.job_ids is None]
    if not present:
        return NO_WORKER
    able = [worker for worker in present if any(name in worker.backends for name in backends)]
    if not able:
        return f"no worker has backend {' or '.join(backends)}"
    priority = str(priority_of(lane.rank))
    if all(worker.priorities is not None and priority not in worker.priorities for worker in able):
        return f"no worker takes priority {priority}"
    return None


def _current_limits(tx: Tx) -> _Limits:
    limits = {(limit.scope, limit.key, limit.model): limit.max_running or 0 for limit in shared_limits(tx)}
    return _Limits(limits, credentials_in_use(tx) if any(scope == "model" for scope, _, _ in limits) else {})


def _full(tx: Tx, limits: _Limits, lane: Row[Any], backends: Sequence[str]) -> str | None:
    """The reason, if a limit of this lane is reached."""
    if lane.group_key is not None:
        count = running_under(tx, ("group", lane.group_key, ALL_MODELS))
        most = lane.group_max or 0
        if count >= most:
            return f"concurrency group is full ({count} of {most} running)"
    quota = _reached(tx, limits, ("tenant", lane.tenant_id, ALL_MODELS))
    if quota is not None:
        return f"quota of tenant {lane.tenant_id} is used up ({quota})"
    return _models_full(tx, limits, lane.model, backends) if limits.max_running else None


def _reached(tx: Tx, limits: _Limits, key: LimitKey) -> str | None:
    """The use of a limit that is reached; None if it is not reached or not set."""
    limit = limits.max_running.get(key)
    if limit is None:
        return None
    count = running_under(tx, key)
    return f"{count} of {limit} running" if count >= limit else None


def _models_full(tx: Tx, limits: _Limits, model: str, backends: Sequence[str]) -> str | None:
    """The reason, if the limits of all credentials that could run jobs on a model are reached."""
    reasons = [
        _model_full(tx, limits, credential, model)
        for backend in backends
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
