"""How a job changes its status: checked against the table, written with its event, in one place."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

from sqlalchemy import Row, Select, select

from nsai_work.lifecycle import JobStatus, check_transition
from nsai_work.store.engine.bulk_write import BulkWrite
from nsai_work.store.engine.database import PREPARED, Tx, one_of_these
from nsai_work.store.lanes import activate
from nsai_work.store.schema import events, jobs

Entry: TypeAlias = tuple[int, str, dict[str, Any]]
"""One entry of a log: seq of the job, name, data."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One job's step to another status. ``row`` was read under a lock in this transaction."""

    row: Row[Any]
    status: JobStatus
    values: dict[str, Any] = field(default_factory=dict)
    event: dict[str, Any] = field(default_factory=dict)


def lock_rows(tx: Tx, statement: Select[Any], *, skip_locked: bool = False) -> Sequence[Row[Any]]:
    """Read rows of ``nsai_jobs`` so that nobody else changes them before this transaction ends."""
    return tx.connection.execute(statement.with_for_update(of=jobs, skip_locked=skip_locked)).all()


def lock_by_id(tx: Tx, job_ids: Iterable[str]) -> dict[str, Row[Any]]:
    """The locked rows of some jobs, by id; in one order, so that two transactions do not wait crosswise."""
    rows = tx.connection.execute(_these_locked(tx.postgres), {"wanted": list(job_ids)})
    return {row.id: row for row in rows}


@lru_cache
def _these_locked(postgres: bool) -> Select[Any]:
    these = one_of_these(jobs.c.id, "wanted", postgres=postgres)
    statement = select(jobs).where(these).order_by(jobs.c.seq).with_for_update(of=jobs)
    return statement.execution_options(**PREPARED)


def move(tx: Tx, moves: Sequence[Transition]) -> None:
    """Write the moves and an event for each. Raises as ``plan_moves``."""
    writes = BulkWrite()
    plan_moves(tx, moves, writes)
    writes.run(tx)


def plan_moves(tx: Tx, moves: Sequence[Transition], writes: BulkWrite) -> None:
    """Add the moves and an event for each to ``writes``.

    Raises:
        IllegalTransition: the life cycle has no such move; nothing is written.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for one in moves:
        check_transition(JobStatus(one.row.status), one.status)
        row = {"seq": one.row.seq, **one.values, "status": str(one.status)}
        groups[tuple(sorted(row))].append(row)
    for rows in groups.values():
        writes.update(jobs, rows, by=("seq",), exact=True)
    ready = [one for one in moves if one.status is JobStatus.QUEUED and one.values.get("run_at") is None]
    activate(tx, {one.row.lane_id for one in ready})
    plan_events(tx, [(one.row.seq, f"job.{one.status}", _event_data(one)) for one in moves], writes)


def _event_data(one: Transition) -> dict[str, Any]:
    fence = one.values.get("fence", one.row.fence)
    return {"from": one.row.status, "to": str(one.status), "fence": fence, **one.event}


def append_events(tx: Tx, entries: Sequence[Entry]) -> None:
    """Append to the logs of jobs. The caller holds the locks of their rows, which keeps a log's order the order in
    which things happened."""
    writes = BulkWrite()
    plan_events(tx, entries, writes)
    writes.run(tx)


def plan_events(tx: Tx, entries: Sequence[Entry], writes: BulkWrite) -> None:
    """As ``append_events``, with other writes."""
    rows = [{"job_seq": seq, "at": tx.now, "name": name, "data": data} for seq, name, data in entries]
    writes.insert(events, rows)
