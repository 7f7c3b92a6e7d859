"""Rollouts and their turns."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Row, select

from nsai_work.rollout_journal import RecordedRollouts, RolloutRecord, StoredTurn
from nsai_work.store.engine.bulk_write import insert_new
from nsai_work.store.engine.database import Tx
from nsai_work.store.journal.fences import fence
from nsai_work.store.journal.rows import read_row
from nsai_work.store.records import Claim
from nsai_work.store.schema import rollout_turns, rollouts


def recorded_rollouts(tx: Tx, claim: Claim, step: int) -> RecordedRollouts:
    """The rollouts of a step with their turns, for the owner of the job."""
    fence(tx, claim)
    return RecordedRollouts(job_rollouts(tx, claim.seq, step), job_turns(tx, claim.seq, step))


def job_rollouts(tx: Tx, seq: int, step: int | None = None) -> list[RolloutRecord]:
    """The rollouts of a job that have ended, or those of a step, in order."""
    condition = rollouts.c.job_seq == seq
    if step is not None:
        condition &= rollouts.c.step == step
    order = (rollouts.c.step, rollouts.c.group_number, rollouts.c.member, rollouts.c.generation)
    rows = tx.connection.execute(select(rollouts).where(condition).order_by(*order))
    return [read_row(rollouts, row, RolloutRecord, _values(row)) for row in rows]


def newest_rollouts(tx: Tx, seq: int, step: int | None = None) -> list[RolloutRecord]:
    """The newest rollout of each place, in order."""
    return list({(one.step, one.group, one.member): one for one in job_rollouts(tx, seq, step)}.values())


def job_turns(tx: Tx, seq: int, step: int, groups: Collection[int] | None = None) -> list[StoredTurn]:
    """The turns of the rollouts of a step, or of those of some groups, in order."""
    condition = (rollout_turns.c.job_seq == seq) & (rollout_turns.c.step == step)
    if groups is not None:
        condition &= tx.one_of(rollout_turns.c.group_number, groups)
    columns = rollout_turns.c
    order = (columns.group_number, columns.member, columns.generation, columns.turn, columns.attempt)
    rows = tx.connection.execute(select(rollout_turns).where(condition).order_by(*order))
    return [read_row(rollout_turns, row, StoredTurn, _values(row)) for row in rows]


def keep_turn(tx: Tx, claim: Claim, turn: StoredTurn) -> None:
    """Record a turn. One that is recorded already stays."""
    fence(tx, claim)
    insert_new(tx, rollout_turns, [_row(tx, claim, turn.model_dump())])


def finish_rollouts(tx: Tx, claim: Claim, records: Sequence[RolloutRecord]) -> None:
    """Record that rollouts have ended."""
    fence(tx, claim)
    insert_new(
        tx,
        rollouts,
        [_row(tx, claim, record.model_dump(mode="json", exclude={"recorded_at"})) for record in records],
    )


def _row(tx: Tx, claim: Claim, values: dict[str, Any]) -> dict[str, Any]:
    # "group" is a word of SQL
    group = values.pop("group")
    return {**values, "group_number": group, "job_seq": claim.seq, "recorded_at": tx.now}


def _values(row: Row[Any]) -> dict[str, Any]:
    values = dict(row._mapping)
    del values["job_seq"]
    if "group_number" in values:
        values["group"] = values.pop("group_number")
    if "turn" in values:
        values["data"] = bytes(values["data"])
        del values["recorded_at"]
    return values
