"""Status transitions of jobs: checked against the transition table and written with their events."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row

from nsai_work.lifecycle import JobStatus, check_transition
from nsai_work.store.damaged import status_of
from nsai_work.store.engine.bulk_write import BulkWrite
from nsai_work.store.engine.database import Tx
from nsai_work.store.lanes import activate
from nsai_work.store.lifecycle.events import plan_events
from nsai_work.store.schema import jobs


@dataclass(frozen=True, slots=True)
class Transition:
    """A job's transition to a status. ``row`` was locked in this transaction; ``values`` are further columns, and
    ``event`` further data of the event."""

    row: Row[Any]
    status: JobStatus
    values: dict[str, Any] = field(default_factory=dict)
    event: dict[str, Any] = field(default_factory=dict)


def apply_transitions(tx: Tx, transitions: Sequence[Transition]) -> None:
    """Write transitions with their events. Raises as ``plan_transitions``."""
    bulk = BulkWrite()
    plan_transitions(tx, transitions, bulk)
    bulk.execute(tx)


def plan_transitions(tx: Tx, transitions: Sequence[Transition], bulk: BulkWrite) -> None:
    """Add transitions and their events to a bulk write, and activate the lanes of jobs that become ready.

    Raises:
        IllegalTransition: the transition table does not allow one of them; nothing is written.
    """
    rows_by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for transition in transitions:
        check_transition(status_of(transition.row.status), transition.status)
        row = {"seq": transition.row.seq, **transition.values, "status": str(transition.status)}
        rows_by_columns[tuple(sorted(row))].append(row)
    for rows in rows_by_columns.values():
        bulk.update(jobs, rows, by=("seq",), exact=True)
    activate(tx, {transition.row.lane_id for transition in transitions if _makes_ready(transition)})
    entries = [
        (transition.row.seq, f"job.{transition.status}", _event_data(transition)) for transition in transitions
    ]
    plan_events(tx, entries, bulk)


def _makes_ready(transition: Transition) -> bool:
    return transition.status is JobStatus.QUEUED and transition.values.get("run_at") is None


def _event_data(transition: Transition) -> dict[str, Any]:
    row = transition.row
    fence = transition.values.get("fence", row.fence)
    return {"from": row.status, "to": str(transition.status), "fence": fence, **transition.event}
