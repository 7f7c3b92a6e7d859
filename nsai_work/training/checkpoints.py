"""The second phase of a save: verify and commit; and afterwards, what the policy lets go.

What a poisoned run saved is never committed: before a commit every step up to it has a finite loss, and the service
says that the run is well.
"""

from collections.abc import Iterable, Sequence

from crucible.errors import BackendError, CallerError, InvalidRequest, RunCorrupted, RunGone
from crucible.training import Intent, RunState, SaveResult
from nsai_work.interruptible import Wait
from nsai_work.journal import CheckpointRecord, CheckpointStatus, JournalSnapshot
from nsai_work.payloads import TrainingStep
from nsai_work.policies import SavedCheckpoint
from nsai_work.training.lineage import counts
from nsai_work.training.run_state import Assignment, Live, Progress, metric_of


async def finish_save(assignment: Assignment, live: Live, intent: Intent, saved: SaveResult, wait: Wait) -> None:
    """Verify a saved training state and commit it; one that fails the check is marked lost.

    Raises:
        RunCorrupted, RunGone: the run is not well, so what it saved is not to be trusted.
        BackendError: the final state cannot be relied on; without it the job is not done.
    """
    await _require_well(live, wait)
    check = await wait(assignment.backend.check_checkpoint(saved.path, assignment.spec))
    assert intent.name is not None
    if not check.usable:
        await _lose(assignment, live, intent, check.reason or "the service does not say why")
        return
    metric = metric_of(assignment, live.progress.last)
    await assignment.journal.commit_checkpoint(
        intent.name, path=saved.path, last_seq_id=intent.last_seq_id, size_bytes=check.size_bytes, metric=metric
    )
    live.progress.checkpoints[intent.name] = CheckpointRecord(
        name=intent.name,
        step=intent.step,
        generation=live.record.generation,
        status=CheckpointStatus.COMMITTED,
        path=saved.path,
        metric=metric,
        final=intent.step == assignment.plan.total_steps,
    )
    await _let_go(assignment, live.progress, wait)


async def finish_sampler(assignment: Assignment, live: Live, intent: Intent, saved: SaveResult, wait: Wait) -> None:
    """Enter the sampling weights with the final checkpoint."""
    await _require_well(live, wait)
    final = final_checkpoint(live.progress.checkpoints.values(), intent.step)
    if final is None:
        raise BackendError("the final checkpoint is gone", backend=live.run.ref.backend)
    await assignment.journal.set_sampler_path(final.name, saved.path)
    await assignment.journal.close_intent(live.record.generation, intent.last_seq_id)


def final_checkpoint(checkpoints: Iterable[CheckpointRecord], step: int) -> CheckpointRecord | None:
    """The committed state after the last step."""
    rows = [row for row in checkpoints if row.kept and row.step == step]
    return max(rows, key=lambda row: row.generation, default=None)


async def _require_well(live: Live, wait: Wait) -> None:
    health = await wait(live.run.health())
    ref, reason = live.run.ref, health.reason or "the service does not say why"
    if health.state is RunState.CORRUPTED:
        raise RunCorrupted(
            f"run {ref.run_id} is corrupted: {reason}",
            backend=ref.backend,
            details={"run_id": ref.run_id, "detected_by": "flag"},
        )
    if health.state is RunState.GONE:
        raise RunGone(f"run {ref.run_id} is gone: {reason}", backend=ref.backend, details={"run_id": ref.run_id})


async def _lose(assignment: Assignment, live: Live, intent: Intent, reason: str) -> None:
    assert intent.name is not None
    # in this order, so that whoever takes over in between finds a pending row and saves again
    await assignment.journal.close_intent(live.record.generation, intent.last_seq_id)
    await assignment.journal.mark_checkpoint(intent.name, CheckpointStatus.LOST, reason)
    if intent.step == assignment.plan.total_steps:
        raise BackendError(
            f"the final checkpoint {intent.name} is not usable: {reason}", backend=live.run.ref.backend
        )


async def _let_go(assignment: Assignment, progress: Progress, wait: Wait) -> None:
    for checkpoint in doomed(assignment.payload, list(progress.checkpoints.values())):
        if await _release(assignment, checkpoint, wait):
            update: dict[str, object] = {"status": CheckpointStatus.DELETING}
        else:
            update = {"promoted": True}
        progress.checkpoints[checkpoint.name] = checkpoint.model_copy(update=update)


def doomed(payload: TrainingStep, checkpoints: Sequence[CheckpointRecord]) -> list[CheckpointRecord]:
    """The committed checkpoints that may go: by policy, and never one that a recovery would choose."""
    committed = {row.name: row for row in checkpoints if row.kept}
    saved = [SavedCheckpoint(row.name, row.step, row.metric, row.promoted) for row in committed.values()]
    best = payload.checkpoint_policy.best(saved) if payload.recovery.checkpoint_strategy == "best_loss" else None
    return [
        committed[item.name]
        for item in payload.checkpoint_policy.to_delete(saved)
        if item != best and committed[item.name].path != payload.recovery.checkpoint_strategy
    ]


async def _release(
    assignment: Assignment, checkpoint: CheckpointRecord, wait: Wait, note: str | None = None
) -> bool:
    """Delete a checkpoint, unless it was promoted meanwhile."""
    try:
        await assignment.journal.mark_checkpoint(checkpoint.name, CheckpointStatus.DELETING, note)
    except InvalidRequest:
        return False
    await _delete(assignment, checkpoint, wait)
    return True


async def _delete(assignment: Assignment, checkpoint: CheckpointRecord, wait: Wait) -> None:
    """A deletion that fails is an event; the row stays ``deleting``, and the next takeover tries again."""
    try:
        if checkpoint.path is not None:
            await wait(assignment.backend.delete_checkpoint(checkpoint.path))
    except (BackendError, CallerError) as exc:
        failure = {"name": checkpoint.name, "path": checkpoint.path, "error": exc.code, "reason": exc.message}
        await assignment.journal.event("checkpoint.delete_failed", {**failure})
        return
    await assignment.journal.mark_checkpoint(checkpoint.name, CheckpointStatus.DELETED)


async def tidy(assignment: Assignment, snapshot: JournalSnapshot) -> JournalSnapshot:
    """Finish what an earlier owner left half-done: deletions it began, saves that nobody will confirm any more, and
    checkpoints of a line that no longer counts. Returns the journal as it is then."""
    changed = [await _tidy_one(assignment, snapshot, checkpoint) for checkpoint in snapshot.checkpoints]
    return await assignment.journal.load() if any(changed) else snapshot


async def _tidy_one(assignment: Assignment, snapshot: JournalSnapshot, checkpoint: CheckpointRecord) -> bool:
    if checkpoint.status is CheckpointStatus.DELETING:
        await _delete(assignment, checkpoint, assignment.wait)
        return True
    if checkpoint.status is CheckpointStatus.PENDING and _abandoned(checkpoint, snapshot):
        reason = "the save was never confirmed"
        await assignment.journal.mark_checkpoint(checkpoint.name, CheckpointStatus.LOST, reason)
        return True
    on_line = counts(checkpoint, snapshot.runs, snapshot.last_step)
    if checkpoint.kept and not checkpoint.promoted and not on_line:
        return await _release(assignment, checkpoint, assignment.wait, "its steps were superseded")
    return False


def _abandoned(checkpoint: CheckpointRecord, snapshot: JournalSnapshot) -> bool:
    if any(intent.name == checkpoint.name for intent in snapshot.open_intents):
        return False
    # a save after the newest step of the newest run is made again, under the same name
    return snapshot.runs[-1].generation != checkpoint.generation or checkpoint.step != snapshot.last_step
