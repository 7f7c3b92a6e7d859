"""Lanes and sequence numbers for new jobs.

Sequence numbers rise in the order of submission, which is also the order of claims within a lane.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Integer, Row, ScalarSelect, Select, bindparam, func, select

from nsai_work.job import Job
from nsai_work.placement import candidate_backends, model_of
from nsai_work.store.engine.bulk_write import insert_new
from nsai_work.store.engine.database import Tx, one_of_parameter
from nsai_work.store.lanes import activate_rows, has_ready, notification_columns, share_locked
from nsai_work.store.schema import job_numbers, jobs, lane_backends, lanes, limits, turns


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
        """A short text, equal for equal conditions."""
        parts = (self.tenant_id, self.rank, self.kind, self.model, self.backends, self.group_key, self.group_max)
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=24).hexdigest()


def lane_key(job: Job) -> LaneKey:
    """The lane of a job. A concurrency group belongs to a tenant's namespace."""
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
    """The ids of the lanes of new jobs, those that have ready jobs already, and a sequence number for each job."""

    lane_ids: Mapping[LaneKey, int]
    in_use: Collection[LaneKey]
    seqs: Sequence[int]


def assign_lanes(tx: Tx, keys: Collection[LaneKey], *, ready: Collection[LaneKey], count: int) -> LaneAssignment:
    """Assign ``count`` jobs to the lanes with these keys, and create missing lanes.

    Lanes in ``ready``, which get ready jobs in this transaction, are active afterwards.
    """
    by_digest = {key.digest: key for key in keys}
    found = _find(tx, by_digest, count)
    missing = sorted(by_digest.keys() - {row.key for row in found})
    if missing:
        for digest in missing:
            _create(tx, digest, by_digest[digest])
        found = _find(tx, by_digest, count)
    activate_rows(tx, [row for row in found if by_digest[row.key] in ready])
    seqs = _seqs(found[0].numbers, count, postgres=tx.postgres)
    in_use = {by_digest[row.key] for row in found if row.in_use}
    return LaneAssignment({by_digest[row.key]: row.id for row in found}, in_use, seqs)


def _find(tx: Tx, digests: Collection[str], count: int) -> Sequence[Row[Any]]:
    """Lanes under a shared lock: an active one stays active until this transaction ends."""
    return tx.connection.execute(_lanes_with_numbers(tx.postgres), {"keys": list(digests), "count": count}).all()


def _create(tx: Tx, digest: str, key: LaneKey) -> None:
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
        {"lane_id": lane_id, "preference": preference, "backend": name}
        for preference, name in enumerate(key.backends)
    ]
    insert_new(tx, lane_backends, backends)
    insert_new(tx, turns, [{"tenant_id": key.tenant_id, "rank": key.rank, "turn": 0}])
    if key.group_key is not None:
        insert_new(tx, limits, [{"scope": "group", "key": key.group_key, "model": "*", "max_running": None}])


@lru_cache
def _lanes_with_numbers(postgres: bool) -> Select[Any]:
    columns = (
        *(lanes.c[name] for name in ("key", "id", "active")),
        _numbers(postgres).label("numbers"),
        has_ready(lanes.c.id).label("in_use"),
        *notification_columns(postgres),
    )
    return share_locked(select(*columns), one_of_parameter(lanes.c.key, "keys", postgres=postgres))


def locked_by_key() -> Select[Any]:
    """The lanes whose keys are in the parameter ``keys``, under shared locks (PostgreSQL)."""
    columns = (lanes.c.key, lanes.c.id, lanes.c.active)
    return share_locked(select(*columns), one_of_parameter(lanes.c.key, "keys", postgres=True))


def _numbers(postgres: bool) -> ScalarSelect[Any]:
    """A column with ``count`` new sequence numbers (SQLite: the highest in use), to save a round trip."""
    if not postgres:
        return select(func.max(jobs.c.seq)).scalar_subquery()
    series = func.generate_series(1, bindparam("count", type_=Integer())).table_valued("number")
    # evaluated once for the whole statement: the subquery is uncorrelated
    drawn = select(job_numbers.next_value().label("number")).select_from(series).subquery()
    return select(func.array_agg(drawn.c.number)).scalar_subquery()


def _seqs(numbers: Any, count: int, *, postgres: bool) -> list[int]:
    if postgres:
        return sorted(numbers)
    newest = numbers or 0
    return list(range(newest + 1, newest + 1 + count))
