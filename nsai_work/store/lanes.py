"""Lanes: the queues that ready jobs of equal conditions wait in.

A lane is *active* while it may hold ready jobs; claims look at active lanes only. Whoever makes a job ready
holds a shared lock on its lane, and whoever puts a lane to sleep an exclusive one, so that no ready job is left
in a sleeping lane.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Row, ScalarSelect, Select, exists, select, update

from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus
from nsai_work.placement import candidate_backends, model_of
from nsai_work.store.engine.bulk_write import insert_new
from nsai_work.store.engine.database import PREPARED, Tx, one_of_these
from nsai_work.store.engine.notify import notice
from nsai_work.store.schema import jobs, lane_backends, lanes, limits, status_in, turns
from nsai_work.store.submit.sequence import numbers_column, numbers_of


@dataclass(frozen=True, slots=True)
class LaneKey:
    """The conditions that all jobs of a lane share."""

    tenant_id: str
    rank: int
    kind: str
    model: str
    backends: tuple[str, ...]
    group_key: str | None
    group_max: int | None

    @property
    def digest(self) -> str:
        """A short text that is equal for equal conditions."""
        parts = (self.tenant_id, self.rank, self.kind, self.model, self.backends, self.group_key, self.group_max)
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=24).hexdigest()


def lane_key(job: Job) -> LaneKey:
    """The lane a job waits in. A concurrency group is one tenant's, within a namespace."""
    group = job.constraints.concurrency_group
    return LaneKey(
        tenant_id=job.tenant_id,
        rank=job.priority.rank,
        kind=str(job.kind),
        model=model_of(job),
        backends=candidate_backends(job),
        group_key=None if group is None else json.dumps([job.tenant_id, job.namespace, group]),
        group_max=job.constraints.max_concurrent_in_group,
    )


@dataclass(frozen=True, slots=True)
class LaneAssignment:
    """Where new jobs wait: the ids of their lanes, and a number for each job."""

    lane_ids: Mapping[LaneKey, int]
    numbers: Sequence[int]


def open_lanes(tx: Tx, keys: Collection[LaneKey], *, ready: Collection[LaneKey], count: int) -> LaneAssignment:
    """Assign ``count`` jobs to the lanes with these conditions, and create the lanes that are missing.

    Lanes in ``ready``, which get ready jobs in this transaction, are active afterwards.
    """
    by_digest = {key.digest: key for key in keys}
    known = _find(tx, by_digest, count)
    missing = sorted(by_digest.keys() - {row.key for row in known})
    if missing:
        for digest in missing:
            _make(tx, digest, by_digest[digest])
        known = _find(tx, by_digest, count)
    _awaken(tx, [row for row in known if by_digest[row.key] in ready])
    numbers = numbers_of(known[0].numbers, count, postgres=tx.postgres)
    return LaneAssignment({by_digest[row.key]: row.id for row in known}, numbers)


def _find(tx: Tx, digests: Collection[str], count: int) -> Sequence[Row[Any]]:
    """Lanes with a shared lock: one that is active stays so until this transaction ends."""
    return tx.connection.execute(_locked_with_numbers(tx.postgres), {"wanted": list(digests), "count": count}).all()


def _make(tx: Tx, digest: str, key: LaneKey) -> None:
    row = {
        "key": digest,
        "tenant_id": key.tenant_id,
        "rank": key.rank,
        "kind": key.kind,
        "model": key.model,
        "group_key": key.group_key,
        "group_max": key.group_max,
        "active": True,
    }
    insert_new(tx, lanes, [row])
    lane_id = tx.connection.execute(select(lanes.c.id).where(lanes.c.key == digest)).scalar_one()
    backends = [
        {"lane_id": lane_id, "preference": place, "backend": name} for place, name in enumerate(key.backends)
    ]
    insert_new(tx, lane_backends, backends)
    insert_new(tx, turns, [{"tenant_id": key.tenant_id, "rank": key.rank, "turn": 0}])
    if key.group_key is not None:
        insert_new(tx, limits, [{"scope": "group", "key": key.group_key, "model": "*", "max_running": None}])


def activate(tx: Tx, lane_ids: Collection[int]) -> None:
    """Make sure that claims look at these lanes. To be called before this transaction ends that made jobs ready."""
    if lane_ids:
        _awaken(tx, tx.connection.execute(_locked_by_id(tx.postgres), {"wanted": sorted(lane_ids)}).all())


def _awaken(tx: Tx, locked: Iterable[Row[Any]]) -> None:
    asleep = [row.id for row in locked if not row.active]
    if asleep:
        tx.connection.execute(update(lanes).where(lanes.c.id.in_(asleep)).values(active=True))


@lru_cache
def _locked_by_id(postgres: bool) -> Select[Any]:
    columns = (lanes.c.id, lanes.c.active, *_notice(postgres))
    return _locked(select(*columns), one_of_these(lanes.c.id, "wanted", postgres=postgres))


def locked_by_key() -> Select[Any]:
    """For PostgreSQL: the lanes whose keys are in the parameter ``wanted``, with a shared lock."""
    return _locked(
        select(lanes.c.key, lanes.c.id, lanes.c.active), one_of_these(lanes.c.key, "wanted", postgres=True)
    )


@lru_cache
def _locked_with_numbers(postgres: bool) -> Select[Any]:
    columns = (
        *(lanes.c[name] for name in ("key", "id", "active")),
        numbers_column(postgres).label("numbers"),
        *_notice(postgres),
    )
    return _locked(select(*columns), one_of_these(lanes.c.key, "wanted", postgres=postgres))


def _notice(postgres: bool) -> Sequence[ColumnElement[Any]]:
    # whoever locks a lane so makes jobs ready, or brings some that wait: then a worker looks in vain
    return [notice().label("told")] if postgres else []


def _locked(statement: Select[Any], these: ColumnElement[bool]) -> Select[Any]:
    ordered = statement.where(these).order_by(lanes.c.id)
    return ordered.with_for_update(of=lanes, key_share=True, read=True).execution_options(**PREPARED)


def put_to_sleep(tx: Tx) -> None:
    """Put lanes to sleep that hold no ready job, unless someone is just adding one. To be run in a transaction
    of its own, since others wait for the locks it takes."""
    empty = select(lanes.c.id).where(lanes.c.active, front_of(lanes.c.id).is_(None)).order_by(lanes.c.id)
    locked = tx.connection.execute(empty.with_for_update(skip_locked=True)).scalars().all()
    if locked:
        # asked again now that they are locked: a job may have come in between the question and the lock
        still = update(lanes).where(lanes.c.id.in_(locked), ~exists().where(*ready_in(lanes.c.id)))
        tx.connection.execute(still.values(active=False))


def ready_in(lane_id: Any) -> tuple[Any, ...]:
    """The conditions of a job that may be claimed at once, as the index of ready jobs states them."""
    return (jobs.c.lane_id == lane_id, status_in(JobStatus.QUEUED), jobs.c.run_at.is_(None))


def front_of(lane_id: Any) -> ScalarSelect[int]:
    """The seq of the first ready job of a lane, or null: one probe of the index."""
    first = select(jobs.c.seq).where(*ready_in(lane_id)).order_by(jobs.c.seq).limit(1)
    return first.correlate_except(jobs).scalar_subquery()
