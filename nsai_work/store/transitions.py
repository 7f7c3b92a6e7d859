"""How a job changes its status: checked against the table, written with its event, in one place."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, Select, bindparam, insert, select, update

from crucible.errors import CrucibleError
from nsai_work.lifecycle import JobStatus, check_transition
from nsai_work.store.database import Tx
from nsai_work.store.lanes import activate
from nsai_work.store.schema import events, jobs


@dataclass(frozen=True, slots=True)
class Move:
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
    statement = select(jobs).where(tx.one_of(jobs.c.id, job_ids)).order_by(jobs.c.seq)
    return {row.id: row for row in lock_rows(tx, statement)}


def move(tx: Tx, moves: Sequence[Move]) -> None:
    """Write the moves and an event for each.

    Raises:
        IllegalTransition: the life cycle has no such move; nothing is written.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for one in moves:
        check_transition(JobStatus(one.row.status), one.status)
        values = {**one.values, "status": str(one.status)}
        groups[tuple(sorted(values))].append({"b_seq": one.row.seq, "b_epoch": one.row.epoch, **values})
    for columns, parameters in groups.items():
        _write(tx, columns, parameters)
    ready = {
        one.row.lane_id for one in moves if one.status is JobStatus.QUEUED and one.values.get("run_at") is None
    }
    activate(tx, ready)
    append_events(tx, [(one.row.seq, f"job.{one.status}", _event_data(one)) for one in moves])


def _write(tx: Tx, columns: tuple[str, ...], parameters: list[dict[str, Any]]) -> None:
    first = parameters[0]
    if all(one[name] == first[name] for one in parameters for name in columns):
        # one statement for all, where one each would be planned each
        these = tx.one_of(jobs.c.seq, [one["b_seq"] for one in parameters])
        result = tx.connection.execute(update(jobs).where(these).values({name: first[name] for name in columns}))
    else:
        fenced = (jobs.c.seq == bindparam("b_seq")) & (jobs.c.epoch == bindparam("b_epoch"))
        statement = update(jobs).where(fenced).values({name: bindparam(name) for name in columns})
        result = tx.connection.execute(statement, parameters)
    if result.rowcount != len(parameters):
        raise CrucibleError(f"{len(parameters)} locked jobs were to move, {result.rowcount} did")


def _event_data(one: Move) -> dict[str, Any]:
    epoch = one.values.get("epoch", one.row.epoch)
    return {"from": one.row.status, "to": str(one.status), "epoch": epoch, **one.event}


def append_events(tx: Tx, entries: Sequence[tuple[int, str, dict[str, Any]]]) -> None:
    """Append to the logs of jobs: (seq of the job, name, data). The caller holds the locks of their rows, which
    keeps a log's order the order in which things happened."""
    if entries:
        rows = [{"job_seq": seq, "at": tx.now, "name": name, "data": data} for seq, name, data in entries]
        tx.connection.execute(insert(events), rows)
