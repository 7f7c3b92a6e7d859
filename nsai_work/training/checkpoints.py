"""Second phase of a save: verify, commit, then delete the checkpoints that the policy no longer keeps.

A save of a corrupted run is never committed: before a commit, every earlier step has a finite loss and the service
reports the run as healthy.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from pydantic import JsonValue

from crucible.errors import BackendError, CallerError, InvalidRequest, RunCorrupted, RunGone
from crucible.training import Intent, RunState, SaveResult
from nsai_work.concurrency.interruptible import Awaiter
from nsai_work.journal import CheckpointRecord, CheckpointStatus, JournalSnapshot
from nsai_work.journal.rollouts import PolicyRecord
from nsai_work.payloads import TrainingStep
from nsai_work.policies import SavedCheckpoint
from nsai_work.training.restart.lineage import is_current
from nsai_work.training.run_state import ActiveRun, Assignment, Progress, metric_of

NO_REASON: Final = "the service gives no reason"


async def finish_save(
    assignment: Assignment, active: ActiveRun, intent: Intent, saved: SaveResult, wait: Awaiter
) -> None:
    """Verify a saved training state and commit it, or mark it lost if the check fails.

    Raises:
        RunCorrupted, RunGone: the run is unhealthy, so its save cannot be trusted.
        BackendError: the final state is unusable; the job cannot finish without it.
    """
    await _require_healthy(active, wait)
    check = await wait(assignment.backend.check_checkpoint(saved.path, assignment.spec))
    assert intent.name is not None
    if not check.usable:
        await _mark_lost(assignment, active, intent, check.reason or NO_REASON)
        return
    metric = metric_of(assignment, active.progress)
    by_evaluation = assignment.payload.is_best_by_evaluation
    if metric is None and (not by_evaluation or active.operations.is_evaluated(intent.step)):
        await _report_missing_metric(assignment, active.progress)
    await assignment.journal.commit_checkpoint(
        intent.name, path=saved.path, last_seq_id=intent.last_seq_id, size_bytes=check.size_bytes, metric=metric
    )
    active.progress.checkpoints[intent.name] = CheckpointRecord(
        name=intent.name,
        step=intent.step,
        generation=active.record.generation,
        status=CheckpointStatus.COMMITTED,
        path=saved.path,
        metric=metric,
        final=intent.step == active.operations.last_step,
    )
    await _delete_expired(assignment, active.progress, wait)


async def _report_missing_metric(assignment: Assignment, progress: Progress) -> None:
    """Report once that the service did not send the policy's metric as a finite number."""
    if any(row.kept and row.metric is None for row in progress.checkpoints.values()):
        return
    evaluated = progress.evaluations[-1].metrics if progress.evaluations else {}
    sent: list[JsonValue] = [*sorted({*progress.last.metrics, *evaluated})] if progress.last else []
    await assignment.journal.event(
        "checkpoint.metric_missing",
        {
            "metric": assignment.payload.checkpoint_policy.best_metric,
            "step": progress.last_step,
            "sent": sent,
        },
    )


async def finish_policy(
    assignment: Assignment, active: ActiveRun, intent: Intent, saved: SaveResult, wait: Awaiter
) -> None:
    """Record the path of sampling weights, for the rollouts that are sampled from them. Raises RunCorrupted,
    RunGone as ``finish_save``."""
    await _require_healthy(active, wait)
    policy = PolicyRecord(step=intent.step, generation=active.record.generation, path=saved.path)
    await assignment.journal.keep_policy(policy, intent.last_seq_id)
    assignment.batches.source.policy_saved(policy)


async def finish_sampler(
    assignment: Assignment, active: ActiveRun, intent: Intent, saved: SaveResult, wait: Awaiter
) -> None:
    """Record the path of the last sampling weights, on the final checkpoint.

    Raises:
        RunCorrupted, RunGone: as ``finish_save``.
        BackendError: the final checkpoint no longer exists.
    """
    await _require_healthy(active, wait)
    final = final_checkpoint(active.progress.checkpoints.values(), intent.step)
    if final is None:
        raise BackendError("the final checkpoint is gone", backend=active.run.ref.backend)
    await assignment.journal.set_sampler_path(final.name, saved.path)
    await assignment.journal.close_intent(active.record.generation, intent.last_seq_id)


def final_checkpoint(checkpoints: Iterable[CheckpointRecord], step: int) -> CheckpointRecord | None:
    """Return the committed checkpoint of a step, of the newest generation; None if there is none."""
    rows = [row for row in checkpoints if row.kept and row.step == step]
    return max(rows, key=lambda row: row.generation, default=None)


async def _require_healthy(active: ActiveRun, wait: Awaiter) -> None:
    health = await wait(active.run.health())
    ref, reason = active.run.ref, health.reason or NO_REASON
    if health.state is RunState.CORRUPTED:
        raise RunCorrupted(
            f"run {ref.run_id} is corrupted: {reason}",
            backend=ref.backend,
            details={"run_id": ref.run_id, "detected_by": "flag"},
        )
    if health.state is RunState.GONE:
        raise RunGone(f"run {ref.run_id} is gone: {reason}", backend=ref.backend, details={"run_id": ref.run_id})


async def _mark_lost(assignment: Assignment, active: ActiveRun, intent: Intent, reason: str) -> None:
    assert intent.name is not None
    # in this order: an owner that takes over in between finds a pending row and saves again
    await assignment.journal.close_intent(active.record.generation, intent.last_seq_id)
    await assignment.journal.mark_checkpoint(intent.name, CheckpointStatus.LOST, reason)
    if intent.step == active.operations.last_step:
        raise BackendError(
            f"the final checkpoint {intent.name} is not usable: {reason}", backend=active.run.ref.backend
        )


async def _delete_expired(assignment: Assignment, progress: Progress, wait: Awaiter) -> None:
    checkpoints, steps_per_epoch = list(progress.checkpoints.values()), assignment.plan.steps_per_epoch
    for checkpoint in expired_checkpoints(assignment.payload, checkpoints, steps_per_epoch):
        if await _delete_unless_promoted(assignment, checkpoint, wait):
            update: dict[str, object] = {"status": CheckpointStatus.DELETING}
        else:
            update = {"promoted": True}
        progress.checkpoints[checkpoint.name] = checkpoint.model_copy(update=update)


def expired_checkpoints(
    payload: TrainingStep, checkpoints: Sequence[CheckpointRecord], steps_per_epoch: int
) -> list[CheckpointRecord]:
    """Return the committed checkpoints that the policy deletes, except the one that a recovery would restore."""
    committed = {row.name: row for row in checkpoints if row.kept}
    saved = [
        SavedCheckpoint(row.name, row.step, row.metric, row.promoted, row.step % steps_per_epoch == 0)
        for row in committed.values()
    ]
    best = payload.checkpoint_policy.best(saved) if payload.recovery.checkpoint_strategy == "best_loss" else None
    return [
        committed[item.name]
        for item in payload.checkpoint_policy.to_delete(saved)
        if item != best and committed[item.name].path != payload.recovery.checkpoint_strategy
    ]


async def _delete_unless_promoted(
    assignment: Assignment, checkpoint: CheckpointRecord, wait: Awaiter, note: str | None = None
) -> bool:
    """Delete a checkpoint unless it was promoted in the meantime. Returns whether it was deleted."""
    try:
        # with sampling weights that somebody had saved since the journal was loaded
        current = await assignment.journal.mark_checkpoint(checkpoint.name, CheckpointStatus.DELETING, note)
    except InvalidRequest:
        return False
    await _delete(assignment, current, wait)
    return True


async def _delete(assignment: Assignment, checkpoint: CheckpointRecord, wait: Awaiter) -> None:
    """Delete at the service. A failure emits an event and leaves the row ``deleting``, for the next owner to
    retry."""
    try:
        for path in (checkpoint.path, checkpoint.sampler_path):
            if path is not None:
                await wait(assignment.backend.delete_checkpoint(path))
    except (BackendError, CallerError) as exc:
        failure = {"name": checkpoint.name, "path": checkpoint.path, "error": exc.code, "reason": exc.message}
        await assignment.journal.event("checkpoint.delete_failed", {**failure})
        return
    await assignment.journal.mark_checkpoint(checkpoint.name, CheckpointStatus.DELETED)


async def finish_cleanup(assignment: Assignment, snapshot: JournalSnapshot) -> JournalSnapshot:
    """Complete the unfinished work of earlier owners: started deletions, saves that can no longer be confirmed, and
    checkpoints whose steps were superseded. Returns the updated snapshot."""
    changed = [await _clean_up(assignment, snapshot, checkpoint) for checkpoint in snapshot.checkpoints]
    return await assignment.journal.load() if any(changed) else snapshot


async def _clean_up(assignment: Assignment, snapshot: JournalSnapshot, checkpoint: CheckpointRecord) -> bool:
    if checkpoint.status is CheckpointStatus.DELETING:
        await _delete(assignment, checkpoint, assignment.wait)
        return True
    if checkpoint.status is CheckpointStatus.PENDING and _abandoned(checkpoint, snapshot):
        reason = "the save was never confirmed"
        await assignment.journal.mark_checkpoint(checkpoint.name, CheckpointStatus.LOST, reason)
        return True
    current = is_current(checkpoint, snapshot.runs, snapshot.last_step)
    if checkpoint.kept and not checkpoint.promoted and not current:
        return await _delete_unless_promoted(assignment, checkpoint, assignment.wait, "its steps were superseded")
    return False


def _abandoned(checkpoint: CheckpointRecord, snapshot: JournalSnapshot) -> bool:
    if any(intent.name == checkpoint.name for intent in snapshot.open_intents):
        return False
    # a save after the newest step of the newest run is repeated under the same name
    return snapshot.runs[-1].generation != checkpoint.generation or checkpoint.step != snapshot.last_step
