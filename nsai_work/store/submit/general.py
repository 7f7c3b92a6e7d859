"""Submit: jobs come in whole, in one transaction, or not at all."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Row, or_, select, tuple_

from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.bulk_write import BulkWrite
from nsai_work.store.engine.database import Tx
from nsai_work.store.lanes import open_lanes
from nsai_work.store.lifecycle.dependencies import settle
from nsai_work.store.lifecycle.transitions import plan_events
from nsai_work.store.records import Submitted
from nsai_work.store.rows import RANKS, spec_of
from nsai_work.store.schema import dependencies, jobs, specs, tags
from nsai_work.store.submit.rows import SUBMITTED, NewJob, arrival, invalid, job_row, submitted_data

Key: TypeAlias = tuple[str, str, str]


def submit(tx: Tx, submitted: Sequence[Job], *, look_first: bool = True) -> list[Submitted]:
    """Store jobs, each queued, or pending while a dependency is unmet or its time has not come.

    A job may depend on an earlier one of the same call. One that is there already (by idempotency key within
    tenant and namespace, or by id with the same content) is not stored again. ``look_first=False`` takes it for
    granted that none is: where that was wrong, the database raises a conflict, and nothing is stored.

    Raises:
        InvalidJob: a job cannot be stored; nothing is.
    """
    arrivals = [arrival(tx, job) for job in submitted]
    present = _present(tx, submitted) if look_first else {}
    fresh: dict[str, NewJob] = {}
    twins: dict[Key, str] = {}
    for one in arrivals:
        job, key = one.job, _key(one.job)
        known = job.id in present or job.id in fresh or (key is not None and (key in present or key in twins))
        if not known:
            fresh[job.id] = one
            if key is not None:
                twins[key] = job.id
    stored = _store(tx, list(fresh.values())) if fresh else {}
    return [_answer(job, present, fresh, twins, stored) for job in submitted]


def _key(job: Job) -> Key | None:
    return None if job.idempotency_key is None else (job.tenant_id, job.namespace, job.idempotency_key)


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
            raise invalid("id", f"{job.id!r} belongs to another job; leave the id out to get a new one")


def _answer(
    job: Job,
    present: Mapping[str | Key, Row[Any]],
    fresh: Mapping[str, NewJob],
    twins: Mapping[Key, str],
    stored: Mapping[str, Submitted],
) -> Submitted:
    if job.id in fresh and fresh[job.id].job is job:
        return stored[job.id]
    key = _key(job)
    row = present.get(job.id) or (present.get(key) if key is not None else None)
    if row is not None:
        return Submitted(row.id, row.fence, JobStatus(row.status), RANKS[row.rank], created=False)
    twin = stored[job.id if key is None or job.id in stored else twins[key]]
    return Submitted(twin.job_id, twin.fence, twin.status, twin.priority, created=False)


def _store(tx: Tx, arrivals: Sequence[NewJob]) -> dict[str, Submitted]:
    fresh = [one.job for one in arrivals]
    ready = {one.lane for one in arrivals if one.status is JobStatus.QUEUED}
    places = open_lanes(tx, {one.lane for one in arrivals}, ready=ready, count=len(arrivals))
    seqs = {job.id: seq for job, seq in zip(fresh, places.numbers, strict=True)}
    needs = _needs(tx, fresh, seqs)
    rows = [_row(tx, one, seqs[one.job.id], places.lane_ids[one.lane]) for one in arrivals]
    _insert(tx, arrivals, rows, needs, seqs)
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
                raise invalid(
                    "constraints.depends_on",
                    f"there is no job {name!r} of tenant {job.tenant_id!r}; submit it first, or in the same call "
                    "before the jobs that depend on it",
                )
            needs.setdefault(job.id, []).append(seq)
        known[(job.tenant_id, job.id)] = seqs[job.id]
    return needs


def _row(tx: Tx, one: NewJob, seq: int, lane_id: int) -> dict[str, Any]:
    return {**job_row(tx, one), "seq": seq, "lane_id": lane_id}


def _insert(
    tx: Tx,
    arrivals: Sequence[NewJob],
    rows: Sequence[dict[str, Any]],
    needs: Mapping[str, Sequence[int]],
    seqs: Mapping[str, int],
) -> None:
    fresh = [one.job for one in arrivals]
    labels = [{"tag": tag, "job_seq": seqs[job.id]} for job in fresh for tag in dict.fromkeys(job.tags)]
    edges = [{"needs_seq": seq, "job_seq": seqs[name]} for name, needed in needs.items() for seq in set(needed)]
    entries = [(seqs[one.job.id], SUBMITTED, submitted_data(one)) for one in arrivals]
    writes = BulkWrite()
    writes.insert(jobs, rows)
    writes.insert(specs, [{"job_seq": seqs[job.id], "spec": spec_of(job)} for job in fresh])
    writes.insert(tags, labels)
    writes.insert(dependencies, edges)
    plan_events(tx, entries, writes)
    writes.run(tx)
