"""Submit: jobs come in whole, in one transaction, or not at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Row, or_, select, tuple_

from nsai_work.errors import InvalidJob
from nsai_work.job import Job, storable
from nsai_work.lifecycle import JobStatus
from nsai_work.placement import model_of
from nsai_work.store.database import Tx
from nsai_work.store.dependents import settle
from nsai_work.store.lanes import LaneKey, lane_key, open_lanes
from nsai_work.store.records import Submitted
from nsai_work.store.rows import RANKS, new_row, spec_of
from nsai_work.store.schema import dependencies, jobs, specs, tags
from nsai_work.store.transitions import plan_events
from nsai_work.store.writes import Writes

Key: TypeAlias = tuple[str, str, str]


def submit(tx: Tx, submitted: Sequence[Job], *, look_first: bool = True) -> list[Submitted]:
    """Store jobs, each queued, or pending while a dependency is unmet or its time has not come.

    A job may depend on an earlier one of the same call. One that is there already (by idempotency key within
    tenant and namespace, or by id with the same content) is not stored again. ``look_first=False`` takes it for
    granted that none is: where that was wrong, the database raises a conflict, and nothing is stored.

    Raises:
        InvalidJob: a job cannot be stored; nothing is.
    """
    for job in submitted:
        _check(tx, job)
    present = _present(tx, submitted) if look_first else {}
    fresh: dict[str, Job] = {}
    twins: dict[Key, str] = {}
    for job in submitted:
        key = _key(job)
        known = job.id in present or job.id in fresh or (key is not None and (key in present or key in twins))
        if not known:
            fresh[job.id] = job
            if key is not None:
                twins[key] = job.id
    stored = _store(tx, list(fresh.values())) if fresh else {}
    return [_answer(job, present, fresh, twins, stored) for job in submitted]


def _key(job: Job) -> Key | None:
    return None if job.idempotency_key is None else (job.tenant_id, job.namespace, job.idempotency_key)


def _check(tx: Tx, job: Job) -> None:
    deadline = job.constraints.deadline
    if deadline is not None and deadline <= tx.now:
        raise _invalid(
            "constraints.deadline", f"{deadline.isoformat()} has passed already; give a later one or none"
        )
    try:
        storable(model_of(job))
    except ValueError as error:
        raise _invalid("payload", f"the model's name {error}") from None
    if job.id in job.constraints.depends_on:
        raise _invalid("constraints.depends_on", "a job cannot depend on itself")


def _invalid(field: str, message: str) -> InvalidJob:
    return InvalidJob(f"{field}: {message}", details={"fields": [field]})


def _present(tx: Tx, submitted: Sequence[Job]) -> Mapping[str | Key, Row[Any]]:
    """The jobs that are there already, by id and by idempotency key."""
    same: list[ColumnElement[bool]] = [tx.one_of(jobs.c.id, [job.id for job in submitted])]
    keys = [key for job in submitted if (key := _key(job)) is not None]
    if keys:
        columns = tuple_(jobs.c.tenant_id, jobs.c.namespace, jobs.c.idempotency_key)
        same.append(jobs.c.idempotency_key.is_not(None) & columns.in_(keys))
    found: dict[str | Key, Row[Any]] = {}
    for row in tx.connection.execute(select(jobs).where(or_(*same))):
        found[row.id] = row
        if row.idempotency_key is not None:
            found[(row.tenant_id, row.namespace, row.idempotency_key)] = row
    _refuse_taken_ids(tx, submitted, found)
    return found


def _refuse_taken_ids(tx: Tx, submitted: Sequence[Job], found: Mapping[str | Key, Row[Any]]) -> None:
    for job in submitted:
        row = found.get(job.id)
        if row is None:
            continue
        spec = tx.connection.execute(select(specs.c.spec).where(specs.c.job_seq == row.seq)).scalar_one()
        if spec != spec_of(job):
            raise _invalid("id", f"{job.id!r} belongs to another job; leave the id out to get a new one")


def _answer(
    job: Job,
    present: Mapping[str | Key, Row[Any]],
    fresh: Mapping[str, Job],
    twins: Mapping[Key, str],
    stored: Mapping[str, Submitted],
) -> Submitted:
    if fresh.get(job.id) is job:
        return stored[job.id]
    key = _key(job)
    row = present.get(job.id) or (present.get(key) if key is not None else None)
    if row is not None:
        return Submitted(row.id, row.epoch, JobStatus(row.status), RANKS[row.rank], created=False)
    twin = stored[job.id if key is None or job.id in stored else twins[key]]
    return Submitted(twin.job_id, twin.epoch, twin.status, twin.priority, created=False)


def _store(tx: Tx, fresh: Sequence[Job]) -> dict[str, Submitted]:
    arrivals = [_arrival(tx, job) for job in fresh]
    ready = {one.lane for one in arrivals if one.status is JobStatus.QUEUED}
    places = open_lanes(tx, {one.lane for one in arrivals}, ready=ready, count=len(arrivals))
    seqs = {job.id: seq for job, seq in zip(fresh, places.numbers, strict=True)}
    needs = _needs(tx, fresh, seqs)
    rows = [_row(tx, one, seqs[one.job.id], places.lane_ids[one.lane]) for one in arrivals]
    _insert(tx, fresh, rows, needs, seqs)
    settled = settle(tx, [seqs[job_id] for job_id in needs]) if needs else {}
    return {
        row["id"]: Submitted(row["id"], 0, settled.get(row["id"], row["status"]), RANKS[row["rank"]], created=True)
        for row in rows
    }


def _needs(tx: Tx, fresh: Sequence[Job], seqs: Mapping[str, int]) -> dict[str, list[int]]:
    """For each job that depends on others: their seqs. Their rows stay locked, so that none ends unseen."""
    wanted = {name for job in fresh for name in job.constraints.depends_on}
    if not wanted:
        return {}
    statement = select(jobs.c.seq, jobs.c.id, jobs.c.tenant_id).where(jobs.c.id.in_(sorted(wanted)))
    locked = statement.order_by(jobs.c.seq).with_for_update(read=True)
    known = {(row.tenant_id, row.id): row.seq for row in tx.connection.execute(locked)}
    needs: dict[str, list[int]] = {}
    for job in fresh:
        for name in job.constraints.depends_on:
            seq = known.get((job.tenant_id, name))
            if seq is None:
                raise _invalid(
                    "constraints.depends_on",
                    f"there is no job {name!r} of tenant {job.tenant_id!r}; submit it first, or in the same call "
                    "before the jobs that depend on it",
                )
            needs.setdefault(job.id, []).append(seq)
        known[(job.tenant_id, job.id)] = seqs[job.id]
    return needs


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A job that comes in, where it will wait, and whether it has to wait for its time."""

    job: Job
    lane: LaneKey
    status: JobStatus
    run_at: datetime | None


def _arrival(tx: Tx, job: Job) -> _Arrival:
    not_before = job.constraints.not_before
    later = not_before is not None and not_before > tx.now
    status = JobStatus.PENDING if job.constraints.depends_on or later else JobStatus.QUEUED
    return _Arrival(job, lane_key(job), status, not_before if later else None)


def _row(tx: Tx, one: _Arrival, seq: int, lane_id: int) -> dict[str, Any]:
    return {
        **new_row(one.job, now=tx.now),
        "seq": seq,
        "position": seq,
        "lane_id": lane_id,
        "model": one.lane.model,
        "group_key": one.lane.group_key,
        "status": one.status,
        "queued_at": tx.now if one.status is JobStatus.QUEUED else None,
        "run_at": one.run_at,
    }


def _insert(
    tx: Tx,
    fresh: Sequence[Job],
    rows: Sequence[dict[str, Any]],
    needs: Mapping[str, Sequence[int]],
    seqs: Mapping[str, int],
) -> None:
    labels = [{"tag": tag, "job_seq": seqs[job.id]} for job in fresh for tag in dict.fromkeys(job.tags)]
    edges = [{"needs_seq": seq, "job_seq": seqs[name]} for name, needed in needs.items() for seq in set(needed)]
    entries = [
        (row["seq"], "job.submitted", {"to": str(row["status"]), "kind": row["kind"], "backend": row["backend"]})
        for row in rows
    ]
    writes = Writes()
    writes.insert(jobs, rows)
    writes.insert(specs, [{"job_seq": seqs[job.id], "spec": spec_of(job)} for job in fresh])
    writes.insert(tags, labels)
    writes.insert(dependencies, edges)
    plan_events(tx, entries, writes)
    writes.run(tx)
