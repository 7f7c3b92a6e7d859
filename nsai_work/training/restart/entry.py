"""Connects a driver to a remote run: starts a new run, takes over the previous owner's, or restores a checkpoint.

The journal alone decides which, so every owner that loads the same journal makes the same choice.
"""

from collections import deque
from collections.abc import Sequence

from pydantic import JsonValue

from crucible.errors import AnswerLost, CrucibleError, NoCheckpoint, RunGone, Unsupported
from crucible.recovery import RecoveredRun, RecoveryEvent, RecoveryRequest
from crucible.training import IntentKind, LiveRun
from nsai_work.errors import InvalidJob
from nsai_work.journal import CheckpointRecord, CheckpointStatus, JournalSnapshot, RemoteRun, ResumeMode
from nsai_work.payloads import Continuation, ReinforcementStep
from nsai_work.training.checkpoints import finish_cleanup
from nsai_work.training.evaluation import last_step
from nsai_work.training.objectives import FORWARD_NAME
from nsai_work.training.operations import EvaluationPlan, OperationSequence, last_position, run_name
from nsai_work.training.restart.lineage import (
    candidates,
    checkpoint_ref,
    no_candidate_reason,
    skipped_steps,
    suspect_generations,
)
from nsai_work.training.restart.proof import comparable, comparable_evaluations
from nsai_work.training.restart.resume import check_resume
from nsai_work.training.restart.saved_state import load_state
from nsai_work.training.run_state import ActiveRun, Assignment, Progress


async def connect(assignment: Assignment, snapshot: JournalSnapshot) -> ActiveRun:
    """Return a run that holds the job's state. The pipeline repeats its open intents.

    Raises:
        BackendError: attaching, starting or recovering failed, or a takeover would be unsafe (AnswerLost).
        ResumeUnproven: see ``check_resume``.
    """
    run = snapshot.run
    if run is not None and run.end_reason is None:
        return await _take_over(assignment, snapshot, run)
    return await _start_or_restore(assignment, snapshot)


async def _take_over(assignment: Assignment, snapshot: JournalSnapshot, run: RemoteRun) -> ActiveRun:
    live_run = await _attach(assignment, run, _next_seq_id(snapshot, run))
    try:
        # a forward pass changes nothing, so that it may run again
        effects = [intent for intent in snapshot.open_intents if intent.kind is not IntentKind.FORWARD]
        if effects and live_run.features.replays is not True:
            raise AnswerLost(
                "the effect of the open operations is unknown, and this service would execute a repeat again",
                backend=run.ref.backend,
                details={"run_id": run.ref.run_id, "open_intents": len(effects)},
            )
        snapshot = await finish_cleanup(assignment, snapshot)
        active = _active_run(assignment, snapshot, live_run, run)
        active.expected = deque(snapshot.open_intents)
        await _record_warm(assignment, active, snapshot)
        await check_resume(assignment, active)
    except BaseException as exc:
        # after AnswerLost the driver fences this run, so release its slot at the service
        await live_run.close(unload=isinstance(exc, AnswerLost))
        raise
    return active


def _next_seq_id(snapshot: JournalSnapshot, run: RemoteRun) -> int:
    if snapshot.open_intents:
        return snapshot.open_intents[0].first_seq_id
    return run.first_seq_id if snapshot.last_seq_id is None else snapshot.last_seq_id + 1


async def _attach(assignment: Assignment, run: RemoteRun, next_seq_id: int) -> LiveRun:
    try:
        return await assignment.wait(assignment.backend.attach(run.ref, next_seq_id=next_seq_id))
    except Unsupported as exc:
        raise RunGone(
            f"run {run.ref.run_id} ended with its process",
            backend=run.ref.backend,
            details={"run_id": run.ref.run_id},
        ) from exc


async def _record_warm(assignment: Assignment, active: ActiveRun, snapshot: JournalSnapshot) -> None:
    # a restored run keeps the mode its proof established; a takeover does not improve it
    if active.record.resume is ResumeMode.FRESH:
        active.record = active.record.model_copy(update={"resume": ResumeMode.WARM})
        await assignment.journal.set_resume(active.record.generation, ResumeMode.WARM)
    await assignment.journal.event(
        "resume.warm",
        {
            "generation": active.record.generation,
            "run_id": active.record.ref.run_id,
            "step": snapshot.last_step,
            "replayed": len(snapshot.open_intents),
        },
    )


async def _start_or_restore(assignment: Assignment, snapshot: JournalSnapshot) -> ActiveRun:
    recovered = await _recover(assignment, snapshot)
    if isinstance(recovered, str) and assignment.payload.continue_from is not None:
        return await _continue(assignment, snapshot, assignment.payload.continue_from, recovered)
    if isinstance(recovered, str):
        live_run = await assignment.wait(_start(assignment))
        return await _begin_run(assignment, live_run, _fresh(snapshot, live_run, recovered))
    try:
        record = _restored(snapshot, recovered)
    except BaseException:
        await recovered.run.close(unload=True)
        raise
    return await _begin_run(assignment, recovered.run, record)


async def _continue(
    assignment: Assignment, snapshot: JournalSnapshot, start: Continuation, reason: str
) -> ActiveRun:
    """Go on where another job has ended: with its weights, its optimizer and its step numbers."""
    assert start.path is not None
    load = load_state(assignment.backend, assignment.spec, start.path, field="continue_from", optimizer=True)
    live_run = await assignment.wait(load)
    lost = snapshot.last_step - start.step if snapshot.runs else 0
    record = RemoteRun(
        generation=_next_generation(snapshot),
        ref=live_run.ref,
        from_step=start.step,
        resume=ResumeMode.UNVERIFIED,
        restored_from=start.path,
        first_seq_id=live_run.next_seq_id,
        lost_steps=lost,
        restart_reason=reason if lost else None,
    )
    return await _begin_run(assignment, live_run, record)


async def _start(assignment: Assignment) -> LiveRun:
    """Return a new run at step 0: with new weights, or with those of an earlier run."""
    start = assignment.payload.init_from
    if start is None:
        return await assignment.backend.start(assignment.spec)
    assert start.path is not None
    return await load_state(
        assignment.backend, assignment.spec, start.path, field="init_from", optimizer=start.optimizer
    )


async def _recover(assignment: Assignment, snapshot: JournalSnapshot) -> RecoveredRun | str:
    """Restore a run from a checkpoint. Returns the reason when the job must start over at step 0, which its seed
    makes exact.

    Raises:
        NoCheckpoint: the policy names a checkpoint, which is not usable.
    """
    usable = candidates(snapshot)
    if snapshot.run is None or not usable:
        return no_candidate_reason(snapshot)
    request = RecoveryRequest(
        failed=snapshot.run.ref,
        spec=assignment.spec,
        reason=snapshot.run.end_reason or "the run ended",
        policy=assignment.payload.recovery,
        candidates=tuple(checkpoint_ref(row, assignment.payload.checkpoint_policy) for row in usable),
    )
    recorder = _RecoveryRecorder(assignment, usable)
    try:
        recovered = await assignment.wait(assignment.backend.recover(request, observe=recorder))
    except NoCheckpoint as exc:
        recorder.raise_failure()
        if assignment.payload.recovery.names_checkpoint:
            raise
        for checkpoint in usable:
            if checkpoint.path not in recorder.rejected:
                await assignment.journal.mark_checkpoint(checkpoint.name, CheckpointStatus.LOST, exc.message)
        return exc.message
    if recorder.failure is not None:
        await recovered.run.close(unload=True)
        recorder.raise_failure()
    return recovered


class _RecoveryRecorder:
    """Recovery observer that journals each event. An observer must not raise, so the first failed write is stored
    for ``raise_failure``."""

    def __init__(self, assignment: Assignment, usable: Sequence[CheckpointRecord]) -> None:
        self._assignment = assignment
        self._names = {checkpoint.path: checkpoint.name for checkpoint in usable}
        self.rejected: set[str | None] = set()
        self.failure: CrucibleError | None = None

    async def __call__(self, event: RecoveryEvent, /) -> None:
        try:
            await self._assignment.journal.event(event.name, {"run_id": event.run_id, **event.details})
            path = event.details.get("path")
            if event.name.endswith(".checkpoint_rejected") and isinstance(path, str) and path in self._names:
                self.rejected.add(path)
                reason = str(event.details.get("reason") or "rejected by the recovery")
                await self._assignment.journal.mark_checkpoint(self._names[path], CheckpointStatus.LOST, reason)
        except CrucibleError as exc:
            self.failure = self.failure or exc

    def raise_failure(self) -> None:
        """Raise the error of the first failed write, if any."""
        if self.failure is not None:
            raise self.failure


def _next_generation(snapshot: JournalSnapshot) -> int:
    return max((run.generation for run in snapshot.runs), default=0) + 1


def _fresh(snapshot: JournalSnapshot, run: LiveRun, reason: str) -> RemoteRun:
    restarted = snapshot.last_step > 0
    return RemoteRun(
        generation=_next_generation(snapshot),
        ref=run.ref,
        from_step=0,
        resume=ResumeMode.RESTARTED if restarted else ResumeMode.FRESH,
        first_seq_id=run.next_seq_id,
        lost_steps=snapshot.last_step,
        restart_reason=reason if restarted else None,
    )


def _restored(snapshot: JournalSnapshot, recovered: RecoveredRun) -> RemoteRun:
    path = recovered.checkpoint.path
    own = next((row for row in snapshot.checkpoints if row.path == path), None)
    step = own.step if own is not None else recovered.checkpoint.step
    if step > snapshot.last_step:
        raise InvalidJob(
            f"payload.recovery.checkpoint_strategy: {path} holds step {step}, but this job has only reached step "
            f"{snapshot.last_step}; allowed are latest, best_loss, or a checkpoint of this job",
            details={"field": "payload.recovery.checkpoint_strategy"},
        )
    return RemoteRun(
        generation=_next_generation(snapshot),
        ref=recovered.run.ref,
        from_step=step,
        resume=ResumeMode.UNVERIFIED if recovered.optimizer_requested else ResumeMode.COLD,
        restored_from=path,
        first_seq_id=recovered.run.next_seq_id,
        lost_steps=snapshot.last_step - step,
    )


async def _begin_run(assignment: Assignment, live_run: LiveRun, record: RemoteRun) -> ActiveRun:
    """Journal a new run, then build its state from the reloaded journal."""
    try:
        await assignment.journal.begin_run(record)
        await assignment.journal.event(_event_name(record), _details(record))
        snapshot = await finish_cleanup(assignment, await assignment.journal.load())
        return _active_run(assignment, snapshot, live_run, record)
    except BaseException:
        await live_run.close()
        raise


def _event_name(record: RemoteRun) -> str:
    if record.restored_from is not None:
        return "resume.restored"
    return "resume.restarted" if record.resume is ResumeMode.RESTARTED else "resume.fresh"


def _details(record: RemoteRun) -> dict[str, JsonValue]:
    return {
        "generation": record.generation,
        "run_id": record.ref.run_id,
        "from_step": record.from_step,
        "restored_from": record.restored_from,
        "lost_steps": record.lost_steps,
        "reason": record.restart_reason,
    }


def _active_run(
    assignment: Assignment, snapshot: JournalSnapshot, live_run: LiveRun, record: RemoteRun
) -> ActiveRun:
    payload = assignment.payload
    skips = payload.recovery.on_repeated_corruption == "skip_batch"
    source = next((row.generation for row in snapshot.checkpoints if row.path == record.restored_from), None)
    operations = OperationSequence(
        assignment.plan,
        payload.checkpoint_policy,
        run_name=run_name(assignment.job_id, record.generation),
        forward=None if assignment.objective is None else FORWARD_NAME,
        skipped=skipped_steps(snapshot.runs, skip_batch=skips),
        evaluation=_schedule(assignment),
        policy_every=payload.substeps if isinstance(payload, ReinforcementStep) else None,
        last_step=last_step(assignment.plan, payload, snapshot.evaluations),
        position=last_position(snapshot, record),
    )
    repeated = {
        step.step: step
        for step in snapshot.steps
        if record.from_step < step.step <= record.from_step + 2 and step.generation == record.generation
    }
    return ActiveRun(
        run=live_run,
        record=record,
        progress=Progress.of(snapshot),
        operations=operations,
        superseded=comparable(snapshot.superseded, snapshot.runs, source),
        superseded_evaluations=comparable_evaluations(snapshot.superseded_evaluations, snapshot.runs, source),
        suspect=suspect_generations(snapshot.runs),
        repeated=repeated,
    )


def _schedule(assignment: Assignment) -> EvaluationPlan | None:
    spec, examples = assignment.payload.eval, assignment.evaluation
    saves = assignment.payload.is_best_by_evaluation
    if spec is not None and assignment.tasks is not None:
        return EvaluationPlan(spec.every, saves=saves, plays=True)
    if spec is None or examples is None:
        return None
    return EvaluationPlan(spec.every, examples.passes, saves=saves)
