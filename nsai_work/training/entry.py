"""How a driver comes to hold a live run: a new one, the one its predecessor left, or one restored.

The journal decides. Whoever comes here, in whatever process, finds the same open intents and the same checkpoints,
and does the same.
"""

from collections.abc import Sequence

from pydantic import JsonValue

from crucible.errors import AnswerLost, CrucibleError, NoCheckpoint, RunGone, Unsupported
from crucible.recovery import RecoveredRun, RecoveryEvent, RecoveryRequest
from crucible.training import Intent, LiveRun
from nsai_work.errors import InvalidJob
from nsai_work.journal import CheckpointRecord, CheckpointStatus, JournalSnapshot, RemoteRun, ResumeMode
from nsai_work.training.checkpoints import tidy
from nsai_work.training.lineage import candidates, skipped_steps, suspect_generations, to_ref
from nsai_work.training.operations import Agenda, last_done, run_name
from nsai_work.training.pipeline import prepare
from nsai_work.training.proof import comparable
from nsai_work.training.resume import check_resume
from nsai_work.training.run_state import Assignment, Live, Progress, known_metrics


async def connect(assignment: Assignment, snapshot: JournalSnapshot) -> Live:
    """A live run that holds the job's state, its open intents prepared and still to be sent.

    Raises:
        BackendError: attaching, starting or recovering failed, or a takeover would not be safe (AnswerLost).
        ResumeUnproven: see ``check_resume``.
    """
    run = snapshot.run
    if run is not None and run.end_reason is None:
        return await _take_over(assignment, snapshot, run)
    return await _begin_again(assignment, snapshot)


async def _take_over(assignment: Assignment, snapshot: JournalSnapshot, run: RemoteRun) -> Live:
    live_run = await _attach(assignment, run, _next_seq_id(snapshot, run))
    try:
        if snapshot.open_intents and live_run.features.replays is not True:
            raise AnswerLost(
                "whether the operations under way took effect is not known, and this service would repeat them",
                backend=run.ref.backend,
                details={"run_id": run.ref.run_id, "open_intents": len(snapshot.open_intents)},
            )
        snapshot = await tidy(assignment, snapshot)
        live = _live(assignment, snapshot, live_run, run)
        _prepare_again(assignment, live, snapshot.open_intents)
        await _tell_warm(assignment, live, snapshot)
        await check_resume(assignment, live)
    except BaseException as exc:
        # a run that cannot be gone on with is fenced next: it need not keep its place at the service
        await live_run.close(unload=isinstance(exc, AnswerLost))
        raise
    return live


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


def _prepare_again(assignment: Assignment, live: Live, intents: Sequence[Intent]) -> None:
    """Bring the open intents back from the agenda. Each must come out as it was journaled: what is sent again then
    is the same thing."""
    missing = list(intents)
    while missing:
        operation = live.agenda.peek(known_metrics(assignment, live))
        if operation is None:
            raise _irreproducible(missing[0])
        entry = prepare(assignment, live, operation)
        if entry.prepared is not None and entry.prepared.intent != missing.pop(0):
            raise _irreproducible(entry.prepared.intent)
        live.agenda.take(operation)
        live.in_flight.append(entry)


def _irreproducible(intent: Intent) -> AnswerLost:
    return AnswerLost(
        f"the open {intent.kind} of step {intent.step} cannot be made again as it was journaled",
        details={"run_id": intent.run_id, "seq_id": intent.first_seq_id},
    )


async def _tell_warm(assignment: Assignment, live: Live, snapshot: JournalSnapshot) -> None:
    # a restored run stays what its proof says it is: being taken over does not make it better
    if live.record.resume is ResumeMode.FRESH:
        live.record = live.record.model_copy(update={"resume": ResumeMode.WARM})
        await assignment.journal.set_resume(live.record.generation, ResumeMode.WARM)
    await assignment.journal.event(
        "resume.warm",
        {
            "generation": live.record.generation,
            "run_id": live.record.ref.run_id,
            "step": snapshot.last_step,
            "replayed": len(snapshot.open_intents),
        },
    )


async def _begin_again(assignment: Assignment, snapshot: JournalSnapshot) -> Live:
    recovered = await _recover(assignment, snapshot)
    if recovered is None:
        live_run = await assignment.wait(assignment.backend.start(assignment.spec))
        return await _enter(assignment, live_run, _fresh(snapshot, live_run))
    try:
        record = _restored(snapshot, recovered)
    except BaseException:
        await recovered.run.close(unload=True)
        raise
    return await _enter(assignment, recovered.run, record)


async def _recover(assignment: Assignment, snapshot: JournalSnapshot) -> RecoveredRun | None:
    """A run restored from a checkpoint; None when the job has to begin at step 0, which its seed makes exact."""
    usable = candidates(snapshot)
    if snapshot.run is None or not usable:
        return None
    request = RecoveryRequest(
        failed=snapshot.run.ref,
        spec=assignment.spec,
        reason=snapshot.run.end_reason or "the run ended",
        policy=assignment.payload.recovery,
        candidates=tuple(to_ref(checkpoint) for checkpoint in usable),
    )
    notes = _Notes(assignment, usable)
    try:
        recovered = await assignment.wait(assignment.backend.recover(request, observe=notes))
    except NoCheckpoint as exc:
        notes.raise_failure()
        for checkpoint in usable:
            if checkpoint.path not in notes.rejected:
                await assignment.journal.mark_checkpoint(checkpoint.name, CheckpointStatus.LOST, exc.message)
        return None
    if notes.failure is not None:
        await recovered.run.close(unload=True)
        notes.raise_failure()
    return recovered


class _Notes:
    """Writes down what a recovery tells. An observer must not raise, so a failed write is kept for later."""

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
        """Raise what an event could not be written for."""
        if self.failure is not None:
            raise self.failure


def _generation(snapshot: JournalSnapshot) -> int:
    return max((run.generation for run in snapshot.runs), default=0) + 1


def _fresh(snapshot: JournalSnapshot, run: LiveRun) -> RemoteRun:
    return RemoteRun(
        generation=_generation(snapshot),
        ref=run.ref,
        from_step=0,
        resume=ResumeMode.FRESH,
        first_seq_id=run.next_seq_id,
    )


def _restored(snapshot: JournalSnapshot, recovered: RecoveredRun) -> RemoteRun:
    path = recovered.checkpoint.path
    ours = next((row for row in snapshot.checkpoints if row.path == path), None)
    step = ours.step if ours is not None else recovered.checkpoint.step
    if step > snapshot.last_step:
        raise InvalidJob(
            f"payload.recovery.checkpoint_strategy: {path} holds step {step}, but this job has only come to step "
            f"{snapshot.last_step}; allowed are latest, best_loss, or a checkpoint of this job",
            details={"field": "payload.recovery.checkpoint_strategy"},
        )
    return RemoteRun(
        generation=_generation(snapshot),
        ref=recovered.run.ref,
        from_step=step,
        resume=ResumeMode.UNVERIFIED if recovered.optimizer_requested else ResumeMode.COLD,
        restored_from=path,
        first_seq_id=recovered.run.next_seq_id,
    )


async def _enter(assignment: Assignment, live_run: LiveRun, record: RemoteRun) -> Live:
    """Enter the new run in the journal, and go on from what the journal says then."""
    try:
        await assignment.journal.begin_run(record)
        await assignment.journal.event(_name_of_begin(record), _details(record))
        snapshot = await tidy(assignment, await assignment.journal.load())
        return _live(assignment, snapshot, live_run, record)
    except BaseException:
        await live_run.close()
        raise


def _name_of_begin(record: RemoteRun) -> str:
    return "resume.fresh" if record.restored_from is None else "resume.restored"


def _details(record: RemoteRun) -> dict[str, JsonValue]:
    return {
        "generation": record.generation,
        "run_id": record.ref.run_id,
        "from_step": record.from_step,
        "restored_from": record.restored_from,
    }


def _live(assignment: Assignment, snapshot: JournalSnapshot, live_run: LiveRun, record: RemoteRun) -> Live:
    payload = assignment.payload
    skips = payload.recovery.on_repeated_corruption == "skip_batch"
    source = next((row.generation for row in snapshot.checkpoints if row.path == record.restored_from), None)
    agenda = Agenda(
        assignment.plan,
        payload.checkpoint_policy,
        run_name=run_name(assignment.job_id, record.generation),
        skipped=skipped_steps(snapshot.runs, skip_batch=skips),
        done=last_done(snapshot, record),
    )
    repeated = {
        step.step: step
        for step in snapshot.steps[record.from_step : record.from_step + 2]
        if step.generation == record.generation
    }
    return Live(
        run=live_run,
        record=record,
        progress=Progress.of(snapshot),
        agenda=agenda,
        superseded=comparable(snapshot.superseded, snapshot.runs, source),
        suspect=suspect_generations(snapshot.runs),
        repeated=repeated,
    )
