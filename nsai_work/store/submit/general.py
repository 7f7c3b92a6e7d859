"""The general path of submit: any jobs, on either database.

Its twin on PostgreSQL for the common case is ``one_statement.submit``; tests/integration/store/test_twins.py holds
the rows of both equal.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Row, and_, false, or_, select

from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus
from nsai_work.store.blobs.rows import name_blobs
from nsai_work.store.damaged import priority_of, status_of
from nsai_work.store.engine.bulk_write import BulkWrite
from nsai_work.store.engine.database import Tx
from nsai_work.store.lifecycle.dependencies import settle
from nsai_work.store.lifecycle.events import plan_events
from nsai_work.store.records import Submitted
from nsai_work.store.rows import select_jobs, spec_of
from nsai_work.store.schema import dependencies, jobs, specs, tags
from nsai_work.store.submit.content import require_same
from nsai_work.store.submit.lanes import LaneKey, assign_lanes
from nsai_work.store.submit.rows import SUBMITTED, NewJob, invalid, job_row, new_job, submitted_data

IdempotencyKey: TypeAlias = tuple[str, str, str]
"""Tenant, namespace and the user's key."""


def submit(
    tx: Tx, submitted: Sequence[Job], *, assume_new: bool = False, named: Mapping[str, Sequence[str]] | None = None
) -> list[Submitted]:
    """Store jobs, each queued, or pending while it depends on another job or its time has not come.

    A job may depend on an earlier one of the same call. A job that exists already (by idempotency key within tenant
    and namespace, or by id) with the same content is not stored again. With ``assume_new`` the lookup is skipped:
    for a job that exists, the database raises a conflict, and nothing is stored. ``named`` are the keys of
    the blobs that the jobs name, by job id.

    Raises:
        BlobGone: a blob was pruned; nothing is stored.
        InvalidJob: a job cannot be stored; nothing is.
        KeyReused: the job with this idempotency key has another content; nothing is stored.
    """
    present = {} if assume_new else _present(tx, submitted)
    fresh: dict[str, NewJob] = {}
    ids_by_key: dict[IdempotencyKey, str] = {}
    for job in submitted:
        key = _key(job)
        known = job.id in present or job.id in fresh or (key is not None and (key in present or key in ids_by_key))
        if key is not None and key in ids_by_key:
            require_same(job, fresh[ids_by_key[key]].job.id, spec_of(fresh[ids_by_key[key]].job))
        if not known:
            fresh[job.id] = new_job(tx, job)
            if key is not None:
                ids_by_key[key] = job.id
    stored = _store(tx, list(fresh.values()), named or {}) if fresh else {}
    return [_result(job, present, fresh, ids_by_key, stored) for job in submitted]


def _key(job: Job) -> IdempotencyKey | None:
    return None if job.idempotency_key is None else (job.tenant_id, job.namespace, job.idempotency_key)


def _present(tx: Tx, submitted: Sequence[Job]) -> Mapping[str | IdempotencyKey, Row[Any]]:
    """The rows of the jobs that exist already, by id and by idempotency key."""
    conditions: list[ColumnElement[bool]] = [tx.one_of(jobs.c.id, [job.id for job in submitted])]
    keys = [key for job in submitted if (key := _key(job)) is not None]
    if keys:
        conditions.append(_has_key(tx, keys))
    present: dict[str | IdempotencyKey, Row[Any]] = {}
    for row in tx.connection.execute(select_jobs().where(or_(*conditions))):
        present[row.id] = row
        if row.idempotency_key is not None:
            present[(row.tenant_id, row.namespace, row.idempotency_key)] = row
    _refuse_other_content(submitted, present)
    return present


def _refuse_other_content(submitted: Sequence[Job], present: Mapping[str | IdempotencyKey, Row[Any]]) -> None:
    for job in submitted:
        key = _key(job)
        row = present.get(job.id)
        if row is not None and row.spec != spec_of(job):
            raise invalid("id", f"{job.id!r} belongs to another job; leave the id out to get a new one")
        row = row or (present.get(key) if key is not None else None)
        if row is not None:
            require_same(job, row.id, row.spec)


def submitted_ids(tx: Tx, keys: Collection[IdempotencyKey]) -> dict[IdempotencyKey, str]:
    """The ids of the jobs with these idempotency keys."""
    columns = (jobs.c.id, jobs.c.tenant_id, jobs.c.namespace, jobs.c.idempotency_key)
    rows = tx.connection.execute(select(*columns).where(_has_key(tx, keys)))
    return {(row.tenant_id, row.namespace, row.idempotency_key): row.id for row in rows}


def _has_key(tx: Tx, keys: Collection[IdempotencyKey]) -> ColumnElement[bool]:
    """The condition that a job has one of the keys. They are of few tenants and namespaces, by each of which the
    index of keys is used."""
    by_place: dict[tuple[str, str], list[str]] = {}
    for tenant_id, namespace, key in keys:
        by_place.setdefault((tenant_id, namespace), []).append(key)
    found = (
        and_(
            jobs.c.tenant_id == tenant_id,
            jobs.c.namespace == namespace,
            jobs.c.idempotency_key.is_not(None),
            tx.one_of(jobs.c.idempotency_key, names),
        )
        for (tenant_id, namespace), names in by_place.items()
    )
    return or_(false(), *found)


def find_submitted(tx: Tx, submitted: Sequence[Job]) -> list[Submitted | None]:
    """The earlier submission of each job that has an idempotency key; None without one. Raises KeyReused."""
    with_key = [job for job in submitted if job.idempotency_key is not None]
    present = _present(tx, with_key) if with_key else {}
    return [_earlier(present.get(key)) if (key := _key(job)) is not None else None for job in submitted]


def _earlier(row: Row[Any] | None) -> Submitted | None:
    if row is None:
        return None
    return Submitted(row.id, row.fence, status_of(row.status), priority_of(row.rank), created=False)


def _result(
    job: Job,
    present: Mapping[str | IdempotencyKey, Row[Any]],
    fresh: Mapping[str, NewJob],
    ids_by_key: Mapping[IdempotencyKey, str],
    stored: Mapping[str, Submitted],
) -> Submitted:
    if job.id in fresh and fresh[job.id].job is job:
        return stored[job.id]
    key = _key(job)
    row = present.get(job.id) or (present.get(key) if key is not None else None)
    earlier = _earlier(row)
    if earlier is not None:
        return earlier
    first = stored[job.id if key is None or job.id in stored else ids_by_key[key]]
    return Submitted(first.job_id, first.fence, first.status, first.priority, created=False)


def _store(tx: Tx, fresh: Sequence[NewJob], named: Mapping[str, Sequence[str]]) -> dict[str, Submitted]:
    ready = {new.lane for new in fresh if new.status is JobStatus.QUEUED}
    assigned = assign_lanes(tx, {new.lane for new in fresh}, ready=ready, count=len(fresh))
    seqs = {new.job.id: seq for new, seq in zip(fresh, assigned.seqs, strict=True)}
    needs = _needs(tx, [new.job for new in fresh], seqs)
    reasons = _wait_reasons(fresh, assigned.in_use)
    rows = [
        {
            **job_row(tx, new),
            "seq": seqs[new.job.id],
            "lane_id": assigned.lane_ids[new.lane],
            "wait_reason": reason,
        }
        for new, reason in zip(fresh, reasons, strict=True)
    ]
    _insert(tx, fresh, rows, needs)
    if named:
        name_blobs(tx, seqs, named)
    settled = settle(tx, [seqs[job_id] for job_id in needs]) if needs else {}
    return {
        row["id"]: Submitted(
            row["id"], 0, settled.get(row["id"], row["status"]), priority_of(row["rank"]), created=True
        )
        for row in rows
    }


def _wait_reasons(fresh: Sequence[NewJob], in_use: Collection[LaneKey]) -> list[str | None]:
    """The wait reason of each new job. It is behind others if its lane has ready jobs, or gets some before it."""
    taken = set(in_use)
    reasons = []
    for new in fresh:
        reasons.append(new.wait_reason(behind=new.lane in taken))
        if new.status is JobStatus.QUEUED:
            taken.add(new.lane)
    return reasons


def _needs(tx: Tx, fresh: Sequence[Job], seqs: Mapping[str, int]) -> dict[str, list[int]]:
    """The seqs of the dependencies of each job that has any. Their rows are locked, so that none ends unseen."""
    names = {name for job in fresh for name in job.constraints.depends_on}
    if not names:
        return {}
    statement = select(jobs.c.seq, jobs.c.id, jobs.c.tenant_id).where(tx.one_of(jobs.c.id, names))
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


def _insert(
    tx: Tx,
    fresh: Sequence[NewJob],
    rows: Sequence[dict[str, Any]],
    needs: Mapping[str, Sequence[int]],
) -> None:
    seqs = {row["id"]: row["seq"] for row in rows}
    tag_rows = [{"tag": tag, "job_seq": seqs[new.job.id]} for new in fresh for tag in dict.fromkeys(new.job.tags)]
    edges = [{"needs_seq": seq, "job_seq": seqs[name]} for name, needed in needs.items() for seq in set(needed)]
    entries = [
        (row["seq"], SUBMITTED, submitted_data(new, row["wait_reason"]))
        for new, row in zip(fresh, rows, strict=True)
    ]
    bulk = BulkWrite()
    bulk.insert(jobs, rows)
    bulk.insert(specs, [{"job_seq": seqs[new.job.id], "spec": spec_of(new.job)} for new in fresh])
    bulk.insert(tags, tag_rows)
    bulk.insert(dependencies, edges)
    plan_events(tx, entries, bulk)
    bulk.execute(tx)
