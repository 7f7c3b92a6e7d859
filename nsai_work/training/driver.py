"""The training driver: runs a training job to completion from the state in its journal.

It may be killed at any point. The next call of ``train`` for the same job continues from the journal, on the same
remote run where that is safe, else from the newest checkpoint. First start, takeover and recovery share one path
(load the journal, connect, drive), and every failure goes through ``decide``.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from pydantic import JsonValue

from crucible.backend import TrainingBackend
from crucible.errors import BackendError, CallerError, Canceled, CrucibleError, RunCorrupted
from crucible.runtime.waits import WaitCause, waiting
from crucible.training import RunHealth
from nsai_work.clock import Clock
from nsai_work.concurrency.control import Control
from nsai_work.concurrency.interruptible import InterruptibleAwaiter, within
from nsai_work.errors import HandOver, JobTimeout
from nsai_work.job import Job
from nsai_work.journal import Journal, JournalSnapshot
from nsai_work.payloads import DistillationStep, ObjectiveSpec, PreferenceStep, ReinforcementStep, TrainingStep
from nsai_work.telemetry.traces import recovery_span
from nsai_work.training.evaluation import TaskEvaluation
from nsai_work.training.objectives import Objective
from nsai_work.training.pipeline import fill, finish_oldest
from nsai_work.training.plan import Plan, steps_in_flight
from nsai_work.training.restart.decision import Action, Decision, Incident, decide, needs_health_check
from nsai_work.training.restart.entry import connect
from nsai_work.training.restart.lineage import EndReason, end_code, times_poisoned
from nsai_work.training.result import is_finished, training_result
from nsai_work.training.run_state import ActiveRun, Assignment, Progress
from nsai_work.training.sources.batches import BatchSource, Lookahead
from nsai_work.training.sources.data_source import open_batches
from nsai_work.training.sources.preference import ReferenceContext, dpo
from nsai_work.training.sources.teacher import taught

DRAIN_GRACE_S: Final = 3.0
"""The time for which a stopping driver waits for operations in flight. The next owner replays the others."""


async def train(
    *,
    job: Job,
    payload: TrainingStep,
    backend: TrainingBackend,
    journal: Journal,
    control: Control,
    clock: Clock,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    jitter: Callable[[], float] = random.random,
    allow: Sequence[str] = (),
) -> dict[str, JsonValue]:
    """Train to completion and return the job's result. ``backend`` is open; ``jitter`` returns numbers in [0, 1).
    ``allow`` are the modules of environments that jobs may name.

    Raises:
        InvalidJob, DataChanged: the data is not usable.
        Canceled, JobTimeout, HandOver, LeaseLost: ``control`` requested a stop.
        OutOfCredit: the account is out of credit; the job should be paused.
        ResumeUnproven: a resume was weaker than the policy requires.
        CrucibleError: any other failure that recovery could not handle.
    """
    wait = InterruptibleAwaiter(control)
    batches: Lookahead | None = None
    try:
        evaluation = tasks = reference = None
        depth = steps_in_flight(payload, ahead=False)
        if isinstance(payload, ReinforcementStep):
            plan, source, tasks = await _open_rollouts(job, payload, backend, journal, wait, allow)
            depth = max(depth, (payload.steps_ahead + 1) * payload.substeps - 1)
        else:
            plan, source, evaluation, reference = await open_batches(payload, backend, wait)
        if isinstance(payload, DistillationStep):
            source = taught(source, payload, backend, journal)
        batches = Lookahead(source, depth=depth, last_step=plan.total_steps)
        assignment = Assignment(
            job_id=job.id,
            payload=payload,
            spec=payload.run_spec({"job_id": job.id}),
            plan=plan,
            batches=batches,
            objective=await asyncio.to_thread(_objective, payload, allow),
            evaluation=evaluation,
            tasks=tasks,
            reference=reference,
            backend=backend,
            journal=journal,
            clock=clock,
            wait=wait,
            sleep=sleep,
        )
        held_out = evaluation.announcements() if evaluation is not None else {}
        for name, data in {**source.announcements(), **held_out}.items():
            if not await journal.has_event(name):
                await journal.event(name, data)
        result = await _Driver(assignment, control, jitter).run()
        evaluated = evaluation.result_fields() if evaluation is not None else {}
        return {**result, **await source.result_fields(), **evaluated}
    finally:
        if batches is not None:
            await batches.close()
        await wait.close()


async def _open_rollouts(
    job: Job,
    payload: ReinforcementStep,
    backend: TrainingBackend,
    journal: Journal,
    wait: InterruptibleAwaiter,
    allow: Sequence[str],
) -> tuple[Plan, BatchSource, TaskEvaluation | None]:
    # environments and their messages are no part of other methods
    from nsai_work.training.rollouts.environment import open_rollouts

    return await open_rollouts(job, payload, backend, journal, wait, allow=allow)


def _objective(payload: TrainingStep, allow: Sequence[str]) -> Objective | None:
    if isinstance(payload, PreferenceStep):
        return Objective(ObjectiveSpec(name=payload.method, settings={"beta": payload.beta}), dpo)
    return None if payload.objective is None else Objective(payload.objective, allow=allow)


class _Driver:
    """An attempt at a training job: connects to a run, drives it, and handles failures until the job is done."""

    def __init__(self, assignment: Assignment, control: Control, jitter: Callable[[], float]) -> None:
        self._assignment = assignment
        self._control = control
        self._jitter = jitter
        self._active: ActiveRun | None = None
        self._failures = 0
        self._furthest = 0

    async def run(self) -> dict[str, JsonValue]:
        """Drive the job to completion, handling failures on the way."""
        try:
            while True:
                try:
                    return await self._connect_and_drive()
                except (BackendError, CallerError) as error:
                    await self._handle_failure(error)
        except (HandOver, JobTimeout):
            await self._drain()
            raise
        except Canceled:
            await self._release_run(unload=True)
            raise
        finally:
            await self._release_run()

    async def _connect_and_drive(self) -> dict[str, JsonValue]:
        assignment = self._assignment
        if self._active is None:
            snapshot = await assignment.journal.load()
            if is_finished(snapshot, assignment.plan, assignment.payload):
                return training_result(snapshot, assignment.plan, assignment.payload)
            if assignment.reference is not None and isinstance(assignment.payload, PreferenceStep):
                scope = ReferenceContext(
                    assignment.payload, assignment.spec, assignment.backend, assignment.journal, assignment.wait
                )
                await assignment.reference.complete(scope)
            with recovery_span(bool(snapshot.runs)) as describe:
                self._active = await connect(assignment, snapshot)
                run = self._active.record
                describe({"nsai_work.resume": str(run.resume), "nsai_work.generation": run.generation})
            del snapshot  # thousands of step records, not needed while driving
            await assignment.batches.connect(self._active.run, self._active.record)
            # what an environment does may not be repeatable, whatever the service is
            replays = self._active.run.features.replays is True
            self._control.set_repeatable(replays and not isinstance(assignment.payload, ReinforcementStep))
            await assignment.wait.watch(self._active.run, assignment.payload.recovery.poll_interval_ms)
        await self._drive(self._active)
        await assignment.batches.finished()
        snapshot = await assignment.journal.load()
        await self._release_run(unload=True)
        return training_result(snapshot, assignment.plan, assignment.payload)

    async def _drive(self, active: ActiveRun) -> None:
        while active.in_flight or not active.operations.finished:
            self._assignment.wait.check()
            await fill(self._assignment, active)
            await finish_oldest(self._assignment, active, self._assignment.wait)

    async def _handle_failure(self, error: CrucibleError) -> None:
        """Decide on a failure and carry the decision out. Raises for a failure or a pause."""
        left_hole = False
        if self._active is not None:
            left_hole = self._active.sender.left_hole
            await self._active.sender.stop_orderly()
        snapshot = await self._assignment.journal.load()
        self._count_failure(Progress.of(snapshot).furthest)
        incident = await self._incident(error, snapshot, left_hole=left_hole)
        decision = decide(incident)
        await self._report(decision, snapshot)
        match decision.action:
            case Action.FAIL | Action.PAUSE:
                if decision.fences:
                    await self._fence(decision, snapshot)
                raise decision.error from error
            case Action.RESTORE | Action.SKIP_BATCH:
                await self._fence(decision, snapshot)
            case Action.REPLAY:
                # where repeats are unsafe, everything has been sent, and the same results are awaited again
                if self._active is not None and incident.replays is True:
                    self._active.send_again()
        await self._back_off(decision.delay_ms, decision.reason, WaitCause.of(error))

    def _count_failure(self, furthest: int) -> None:
        self._failures = 1 if furthest > self._furthest else self._failures + 1
        self._furthest = furthest

    async def _back_off(self, delay_ms: int, reason: str, cause: WaitCause) -> None:
        if delay_ms:
            delay_s = delay_ms / 1000 * (1 + self._jitter() / 4)
            # a run marked corrupted meanwhile is still marked at the next wait, and is handled there
            with suppress(RunCorrupted), waiting() as wait:
                wait.because(reason, cause)
                await self._assignment.wait(_sleep(self._assignment.sleep, delay_s))

    async def _incident(self, error: CrucibleError, snapshot: JournalSnapshot, *, left_hole: bool) -> Incident:
        return Incident(
            error=error,
            policy=self._assignment.payload.recovery,
            driving=self._active is not None,
            health=await self._health(error),
            replays=self._active.run.features.replays if self._active else None,
            effect_unknown=self._active is not None and self._active.effect_unknown,
            left_hole=left_hole,
            failures=self._failures,
            times_poisoned=times_poisoned(snapshot.runs, snapshot.last_step + 1) + 1,
        )

    async def _health(self, error: CrucibleError) -> RunHealth | None:
        if self._active is None or not needs_health_check(error):
            return None
        with suppress(BackendError):
            return await self._assignment.wait(self._active.run.health())
        return None

    async def _report(self, decision: Decision, snapshot: JournalSnapshot) -> None:
        await self._assignment.journal.event(
            "training.incident",
            {
                "error": decision.error.code,
                "reason": decision.reason,
                "action": decision.action.value,
                "step": snapshot.last_step + 1,
                "generation": snapshot.run.generation if snapshot.run else None,
                "incidents": self._failures,
            },
        )

    async def _fence(self, decision: Decision, snapshot: JournalSnapshot) -> None:
        """End the current remote run in the journal, which then accepts none of its results."""
        run = snapshot.run
        if run is not None and run.end_reason is None:
            code = end_code(decision.error, poisoned=decision.poisoned)
            reason = EndReason(code, snapshot.last_step + 1, decision.reason)
            await self._assignment.journal.end_run(run.generation, str(reason))
        await self._release_run(unload=True)

    async def _drain(self) -> None:
        """Record the results that arrive within the grace period; the next owner replays the others."""
        active = self._active
        if active is None:
            return
        await active.sender.stop_orderly()
        deadline = asyncio.ensure_future(_sleep(self._assignment.sleep, DRAIN_GRACE_S))
        try:
            while active.in_flight and not active.in_flight[0].unsent:
                await finish_oldest(self._assignment, active, partial(within, deadline=deadline))
        except (TimeoutError, BackendError, CallerError):
            pass
        finally:
            deadline.cancel()
            await asyncio.gather(deadline, return_exceptions=True)

    async def _release_run(self, *, unload: bool = False) -> None:
        active, self._active = self._active, None
        await self._assignment.wait.unwatch()
        if active is not None:
            await active.sender.stop()
            # a run that cannot be closed expires at the service without heartbeats
            with suppress(CrucibleError):
                await active.run.close(unload=unload)


async def _sleep(sleep: Callable[[float], Awaitable[None]], seconds: float) -> None:
    await sleep(seconds)
