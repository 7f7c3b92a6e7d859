"""How an owner lets go of a job: at its end, or back into the queue. Fenced by the fence of the claim."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeAlias

from sqlalchemy import Row, select

from crucible.errors import Canceled, CrucibleError
from nsai_work.errors import LeaseLost
from nsai_work.lifecycle import JobStatus, check_transition
from nsai_work.store.engine.bulk_write import Writes
from nsai_work.store.engine.database import Tx
from nsai_work.store.lifecycle.dependencies import after_end
from nsai_work.store.lifecycle.transitions import Move, lock_by_id, plan_moves
from nsai_work.store.records import Claim, End, Outcome, Requeue
from nsai_work.store.rows import failure_json
from nsai_work.store.schema import attempts

Ruling: TypeAlias = CrucibleError | None


def finish(tx: Tx, end: End) -> None:
    """End a job.

    Raises:
        LeaseLost: another owner has it, or it has ended otherwise; nothing was written.
        IllegalTransition: ``end.status`` is no end.
    """
    ruling = finish_many(tx, [end])[0]
    if ruling is not None:
        raise ruling


def finish_many(tx: Tx, ends: Sequence[End]) -> list[Ruling]:
    """End jobs; for each None, or the LeaseLost that its owner must obey. Repeating an end changes nothing."""
    for end in ends:
        check_transition(JobStatus.RUNNING, end.status)
    held, rulings = _fence(tx, [(end.claim, str(end.status)) for end in ends])
    moves = [_end_move(tx, held[index], end) for index, end in enumerate(ends) if index in held]
    writes = Writes()
    plan_moves(tx, moves, writes)
    close_attempts(tx, [(one.row, str(one.status), one.values["error"]) for one in moves], writes)
    writes.run(tx)
    if moves:
        after_end(tx, [one.row.seq for one in moves])
    return rulings


def requeue(tx: Tx, back: Requeue) -> JobStatus:
    """Give a running job back; where it went: queued, or canceled if that had been asked for.

    Raises:
        LeaseLost: another owner has it; nothing was written.
    """
    held, rulings = _fence(tx, [(back.claim, _requeue_outcome(back))])
    if rulings[0] is not None:
        raise rulings[0]
    if not held:
        return JobStatus.QUEUED
    row = held[0]
    if row.cancel_requested_at is not None:
        finish(tx, End(back.claim, JobStatus.CANCELED, error=Canceled("canceled by request").failure()))
        return JobStatus.CANCELED
    values = {**released(tx, row, back.delay_s), "wait_reason": back.reason}
    if not back.counts:
        values["attempt"] = max(row.attempt - 1, 0)
    event = {"reason": back.reason, "delay_s": back.delay_s, "attempt": values.get("attempt", row.attempt)}
    if back.failure is not None:
        event["failure"] = failure_json(back.failure)
    writes = Writes()
    plan_moves(tx, [Move(row, JobStatus.QUEUED, values, event)], writes)
    close_attempts(tx, [(row, _requeue_outcome(back), failure_json(back.failure))], writes)
    writes.run(tx)
    return JobStatus.QUEUED


def _requeue_outcome(back: Requeue) -> str:
    return str(Outcome.RETRIED if back.counts else Outcome.RELEASED)


def released(tx: Tx, row: Row[Any], delay_s: float) -> dict[str, Any]:
    """The columns of a job that goes back into the queue, for claims after ``delay_s``."""
    delayed = delay_s > 0
    return {
        "queued_at": tx.now,
        "run_at": tx.now + timedelta(seconds=delay_s) if delayed else None,
        # kept beside run_at: when the clock has been set back, this lies in the future
        "delayed_since": tx.now if delayed else None,
        "worker_id": None,
        "credential": None,
        "lease_ttl_ms": None,
    }


def _end_move(tx: Tx, row: Row[Any], end: End) -> Move:
    error = failure_json(end.error)
    values = {"result": end.result, "error": error, "completed_at": tx.now, "wait_reason": None}
    event = {"attempt": row.attempt, "worker_id": row.worker_id}
    if error is not None:
        event |= {"code": error["code"], "message": error["message"]}
    return Move(row, end.status, values, event)


def _fence(tx: Tx, wanted: Sequence[tuple[Claim, str]]) -> tuple[dict[int, Row[Any]], list[Ruling]]:
    """Lock the jobs; which of the claims still hold theirs, and the ruling for each.

    A claim whose attempt already ended with the wanted outcome is told that all is well: the answer to an
    earlier commit was lost on its way.
    """
    rows = lock_by_id(tx, {claim.job_id for claim, _ in wanted})
    held: dict[int, Row[Any]] = {}
    rulings: list[Ruling] = []
    for index, (claim, outcome) in enumerate(wanted):
        # popped: of two ends for one claim in a batch, the first counts
        row = rows.pop(claim.job_id, None)
        if row is not None and row.status == JobStatus.RUNNING and row.fence == claim.fence:
            held[index] = row
            rulings.append(None)
        else:
            rulings.append(None if _outcome(tx, claim) == outcome else lease_lost(claim))
    return held, rulings


def _outcome(tx: Tx, claim: Claim) -> str | None:
    statement = select(attempts.c.outcome).where(
        attempts.c.job_seq == claim.seq, attempts.c.fence == claim.fence, attempts.c.worker_id == claim.worker_id
    )
    outcome: str | None = tx.connection.execute(statement).scalar()
    return outcome


def lease_lost(claim: Claim) -> LeaseLost:
    """What the owner of a claim is told that no longer holds."""
    return LeaseLost(
        f"job {claim.job_id}: fencing token {claim.fence} no longer owns it; stop working at it",
        details={"job_id": claim.job_id, "fence": claim.fence},
    )


def close_attempts(tx: Tx, ended: Sequence[tuple[Row[Any], str, dict[str, Any] | None]], writes: Writes) -> None:
    """Say with other writes how the attempts of these (locked) jobs' current fences ended."""
    rows = [
        {"job_seq": row.seq, "fence": row.fence, "ended_at": tx.now, "outcome": outcome, "failure": failure}
        for row, outcome, failure in ended
    ]
    writes.update(attempts, rows, by=("job_seq", "fence"))
