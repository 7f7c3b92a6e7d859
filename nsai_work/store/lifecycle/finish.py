"""Finishing and requeueing a claimed job, fenced by its token."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, select

from crucible.errors import Canceled, CrucibleError
from nsai_work.errors import IllegalTransition, LeaseLost
from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.bulk_write import BulkWrite
from nsai_work.store.engine.database import Tx
from nsai_work.store.lifecycle.dependencies import settle_dependents
from nsai_work.store.lifecycle.locks import lock_by_id
from nsai_work.store.lifecycle.transitions import Transition, plan_transitions
from nsai_work.store.records import UNCOUNTED, Claim, Outcome
from nsai_work.store.rows import failure_json
from nsai_work.store.schema import attempts


def finish(tx: Tx, claim: Claim, outcome: Outcome) -> None:
    """End a job.

    Raises:
        LeaseLost: the claim no longer owns the job; nothing was written.
        IllegalTransition: the outcome is not final.
    """
    error = finish_many(tx, [(claim, outcome)])[0]
    if error is not None:
        raise error


def finish_many(tx: Tx, ends: Sequence[tuple[Claim, Outcome]]) -> list[CrucibleError | None]:
    """End jobs. Returns None for each, or the LeaseLost to raise to its owner. Repeating an end has no effect.

    Raises:
        IllegalTransition: an outcome is not final; nothing was written.
    """
    for _, outcome in ends:
        _require_final(outcome)
    held, errors = _fence(tx, ends)
    transitions = [
        _final_transition(tx, held[index], outcome) for index, (_, outcome) in enumerate(ends) if index in held
    ]
    bulk = BulkWrite()
    plan_transitions(tx, transitions, bulk)
    close_attempts(tx, [(end.row, str(end.status), end.values["error"]) for end in transitions], bulk)
    bulk.execute(tx)
    if transitions:
        settle_dependents(tx, [end.row.seq for end in transitions])
    return errors


def _require_final(outcome: Outcome) -> None:
    if not outcome.kind.status.ended:
        raise IllegalTransition(
            f"a job cannot end as {outcome.kind}; use requeue", details={"outcome": str(outcome.kind)}
        )


def requeue(tx: Tx, claim: Claim, outcome: Outcome) -> JobStatus:
    """Requeue a running job. Returns its status: queued, or canceled if that had been requested.

    Raises:
        LeaseLost: the claim no longer owns the job; nothing was written.
    """
    held, errors = _fence(tx, [(claim, outcome)])
    if errors[0] is not None:
        raise errors[0]
    if not held:
        return JobStatus.QUEUED
    row = held[0]
    if row.cancel_requested_at is not None:
        finish(tx, claim, Outcome.canceled(Canceled("canceled by request").failure()))
        return JobStatus.CANCELED
    values = {**requeued_columns(tx, row, outcome.delay_s), "wait_reason": outcome.reason}
    if outcome.kind in UNCOUNTED:
        values["attempt"] = max(row.attempt - 1, 0)
    event = {
        "reason": outcome.reason,
        "delay_s": outcome.delay_s,
        "attempt": values.get("attempt", row.attempt),
    }
    if outcome.failure is not None:
        event["failure"] = failure_json(outcome.failure)
    bulk = BulkWrite()
    plan_transitions(tx, [Transition(row, JobStatus.QUEUED, values, event)], bulk)
    close_attempts(tx, [(row, str(outcome.kind), failure_json(outcome.failure))], bulk)
    bulk.execute(tx)
    return JobStatus.QUEUED


def requeued_columns(tx: Tx, row: Row[Any], delay_s: float) -> dict[str, Any]:
    """The columns of a requeued job that is claimable after ``delay_s``."""
    delayed = delay_s > 0
    return {
        "queued_at": tx.now,
        "run_at": tx.now + timedelta(seconds=delay_s) if delayed else None,
        # when the clock has been set back, this is in the future
        "delayed_since": tx.now if delayed else None,
        "worker_id": None,
        "credential": None,
        "lease_ttl_ms": None,
        "grace_ms": None,
    }


def _final_transition(tx: Tx, row: Row[Any], outcome: Outcome) -> Transition:
    error = failure_json(outcome.failure)
    result = None if outcome.result is None else dict(outcome.result)
    values = {"result": result, "error": error, "completed_at": tx.now, "wait_reason": None}
    event = {"attempt": row.attempt, "worker_id": row.worker_id}
    if error is not None:
        event |= {"code": error["code"], "message": error["message"]}
    return Transition(row, outcome.kind.status, values, event)


def _fence(tx: Tx, ends: Sequence[tuple[Claim, Outcome]]) -> tuple[dict[int, Row[Any]], list[CrucibleError | None]]:
    """Lock the jobs. Returns the rows that their claims still own, by index, and the error for each claim.

    A claim whose attempt has already ended with this outcome gets no error: the result of an earlier commit was
    lost in transit.
    """
    rows = lock_by_id(tx, {claim.job_id for claim, _ in ends})
    held: dict[int, Row[Any]] = {}
    errors: list[CrucibleError | None] = []
    for index, (claim, outcome) in enumerate(ends):
        # popped: of two ends for one claim in a batch, the first counts
        row = rows.pop(claim.job_id, None)
        if row is not None and row.status == JobStatus.RUNNING and row.fence == claim.fence:
            held[index] = row
            errors.append(None)
        else:
            errors.append(None if _recorded_outcome(tx, claim) == outcome.kind else lease_lost(claim))
    return held, errors


def _recorded_outcome(tx: Tx, claim: Claim) -> str | None:
    statement = select(attempts.c.outcome).where(
        attempts.c.job_seq == claim.seq, attempts.c.fence == claim.fence, attempts.c.worker_id == claim.worker_id
    )
    outcome: str | None = tx.connection.execute(statement).scalar()
    return outcome


def lease_lost(claim: Claim) -> LeaseLost:
    """The error for the former owner of a job."""
    return LeaseLost(
        f"job {claim.job_id}: fencing token {claim.fence} no longer owns it; stop working on it",
        details={"job_id": claim.job_id, "fence": claim.fence},
    )


def close_attempts(tx: Tx, ended: Sequence[tuple[Row[Any], str, dict[str, Any] | None]], bulk: BulkWrite) -> None:
    """Add the ends of the current attempts of locked jobs to a bulk write."""
    rows = [
        {"job_seq": row.seq, "fence": row.fence, "ended_at": tx.now, "outcome": outcome, "failure": failure}
        for row, outcome, failure in ended
    ]
    bulk.update(attempts, rows, by=("job_seq", "fence"))
