"""Rollouts and their turns."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, Table, select, tuple_, update

from crucible.errors import CrucibleError
from nsai_work.journal.rollouts import RecordedRollouts, RolloutRecord, StoredTurn
from nsai_work.store.engine.bulk_write import insert_new
from nsai_work.store.engine.database import Tx
from nsai_work.store.journal.fences import fence, fence_all, fence_errors
from nsai_work.store.journal.rows import read_row
from nsai_work.store.records import Claim
from nsai_work.store.schema import evaluation_rollouts, evaluation_turns, jobs, rollout_turns, rollouts

_PLACE: Final = ("job_seq", "step", "group_number", "member")


def recorded_rollouts(tx: Tx, claim: Claim, step: int, *, evaluated: bool) -> RecordedRollouts:
    """The rollouts of a step, or of its evaluation, with their turns, for the owner of the job."""
    fence(tx, claim)
    return RecordedRollouts(
        job_rollouts(tx, claim.seq, step, evaluated=evaluated), job_turns(tx, claim.seq, step, evaluated=evaluated)
    )


def job_rollouts(tx: Tx, seq: int, step: int | None = None, *, evaluated: bool = False) -> list[RolloutRecord]:
    """The rollouts of a job that have ended, or those of a step, in order; with ``evaluated`` those of its
    evaluations."""
    table = evaluation_rollouts if evaluated else rollouts
    condition = table.c.job_seq == seq
    if step is not None:
        condition &= table.c.step == step
    order = (table.c.step, table.c.group_number, table.c.member, table.c.generation)
    rows = tx.connection.execute(select(table).where(condition).order_by(*order))
    return [read_row(table, row, RolloutRecord, _values(row, evaluated=evaluated)) for row in rows]


def newest_rollouts(tx: Tx, seq: int, step: int | None = None, *, evaluated: bool = False) -> list[RolloutRecord]:
    """The newest rollout of each place, in order."""
    found = job_rollouts(tx, seq, step, evaluated=evaluated)
    return list({(one.step, one.group, one.member): one for one in found}.values())


def job_turns(
    tx: Tx, seq: int, step: int, groups: Collection[int] | None = None, *, evaluated: bool = False
) -> list[StoredTurn]:
    """The turns of the rollouts of a step, or of its evaluation, all or those of some groups, in order."""
    table = evaluation_turns if evaluated else rollout_turns
    columns = table.c
    condition = (columns.job_seq == seq) & (columns.step == step)
    if groups is not None:
        condition &= tx.one_of(columns.group_number, groups)
    order = (columns.group_number, columns.member, columns.generation, columns.turn, columns.attempt)
    rows = tx.connection.execute(select(table).where(condition).order_by(*order))
    return [read_row(table, row, StoredTurn, _values(row, evaluated=evaluated)) for row in rows]


@dataclass(frozen=True, slots=True)
class NewRollouts:
    """New rows of a claim's owner: a turn, or rollouts of a group that ended."""

    claim: Claim
    turn: StoredTurn | None = None
    ended: Sequence[RolloutRecord] = ()


def keep_rollouts(tx: Tx, items: Sequence[NewRollouts]) -> list[CrucibleError | None]:
    """Record turns, and rollouts that have ended. Those that are recorded already stay. Returns None for each item,
    or the LeaseLost to raise to its owner.

    A rollout in a place where none had ended is progress, and resets the count of crashes.
    """
    held = fence_all(tx, (item.claim for item in items))
    rows: dict[Table, list[dict[str, Any]]] = {}
    owned = [item for item in items if (item.claim.seq, item.claim.fence) in held]
    for item in owned:
        if item.turn is not None:
            table = evaluation_turns if item.turn.evaluated else rollout_turns
            rows.setdefault(table, []).append(_row(tx, item.claim, item.turn.model_dump(exclude={"evaluated"})))
        for record in item.ended:
            table = evaluation_rollouts if record.evaluated else rollouts
            values = record.model_dump(mode="json", exclude={"recorded_at", "evaluated"})
            rows.setdefault(table, []).append(_row(tx, item.claim, values))
    _reset_crashes(tx, {table: rows.get(table, []) for table in (rollouts, evaluation_rollouts)})
    for table, new in rows.items():
        insert_new(tx, table, new)
    return fence_errors([item.claim for item in items], held)


def _reset_crashes(tx: Tx, ended: Mapping[Table, Sequence[Mapping[str, Any]]]) -> None:
    """Reset the count of crashes of the jobs whose rollouts end in places where none had."""
    seqs = {row["job_seq"] for rows in ended.values() for row in rows}
    if not seqs:
        return
    crashed = select(jobs.c.seq).where(tx.one_of(jobs.c.seq, seqs), jobs.c.crashes > 0)
    suspects = set(tx.connection.execute(crashed).scalars())
    progress: set[int] = set()
    for table, rows in ended.items():
        columns = [table.c[name] for name in _PLACE]
        places = {tuple(row[name] for name in _PLACE) for row in rows if row["job_seq"] in suspects}
        if places:
            known = tx.connection.execute(select(*columns).where(tuple_(*columns).in_(sorted(places))))
            progress |= {seq for seq, *_ in places - {tuple(row) for row in known}}
    if progress:
        tx.connection.execute(update(jobs).where(tx.one_of(jobs.c.seq, progress)).values(crashes=0))


def _row(tx: Tx, claim: Claim, values: dict[str, Any]) -> dict[str, Any]:
    # "group" is a word of SQL
    group = values.pop("group")
    return {**values, "group_number": group, "job_seq": claim.seq, "recorded_at": tx.now}


def _values(row: Row[Any], *, evaluated: bool) -> dict[str, Any]:
    values = dict(row._mapping) | {"evaluated": evaluated}
    del values["job_seq"]
    if "group_number" in values:
        values["group"] = values.pop("group_number")
    if "turn" in values:
        values["data"] = bytes(values["data"])
        del values["recorded_at"]
    return values
