"""The training pipeline: prepare, journal and send operations; await the oldest result and record it.

Results are recorded in send order, whichever the service finishes first. So the open intents of a run that is taken
over are always its newest, and every step before a recorded step is recorded. A new owner first repeats these
intents: it prepares the same operations, and each must equal its intent, so that a replay sends the same bytes.
"""

import asyncio
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from pydantic import JsonValue

from crucible.errors import BackendError, RunCorrupted
from crucible.training import Datum, ForwardResult, Intent, IntentKind, Pending, SaveResult, StepRequest, StepResult
from nsai_work.concurrency.interruptible import Awaiter
from nsai_work.journal import CheckpointRecord, EvaluationRecord, StepRecord
from nsai_work.policies import EVAL_LOSS
from nsai_work.telemetry.traces import record_span
from nsai_work.training.checkpoints import finish_policy, finish_sampler, finish_save
from nsai_work.training.evaluation import (
    early_stop,
    evaluation_of,
    require_stopping_metric,
    score,
    stopping_values,
)
from nsai_work.training.in_flight import InFlight
from nsai_work.training.objectives import Objective
from nsai_work.training.operations import Operation
from nsai_work.training.plan import steps_in_flight
from nsai_work.training.restart.lineage import SKIPPED
from nsai_work.training.restart.resume import check_evaluation, check_resume
from nsai_work.training.run_state import SAMPLER_TTL_S, ActiveRun, Assignment, expiry

_SPANS: Final = {IntentKind.STEP: "nsai_work.step", IntentKind.SAVE_STATE: "nsai_work.checkpoint"}
"""The names of the spans of operations that have one."""


async def _prepare(assignment: Assignment, active: ActiveRun, operation: Operation) -> InFlight:
    """Build the request of an operation and reserve its sequence numbers, without sending it."""
    if operation.skipped:
        return InFlight(operation)
    if operation.kind is IntentKind.STEP and assignment.objective is not None:
        return await _prepare_objective(assignment, assignment.objective, active, operation)
    if operation.plays:
        assert assignment.tasks is not None
        begin = assignment.tasks.skip if _is_evaluated(active, operation.step) else assignment.tasks.begin
        begin(operation.step)
        return InFlight(operation)
    if operation.evaluates is not None:
        assert assignment.evaluation is not None
        part = await assignment.wait(assignment.evaluation.batch(operation.step, operation.evaluates))
        forward = active.run.prepare_forward(part.datums, step=operation.step, name=operation.name)
        return InFlight(operation, forward, batch=part)
    if operation.kind in (IntentKind.STEP, IntentKind.FORWARD):
        step, batches = operation.step, assignment.batches
        batch = await (batches.batch(step) if batches.ready(step) else assignment.wait(batches.batch(step)))
        if operation.kind is IntentKind.FORWARD:
            forward = active.run.prepare_forward(batch.datums, step=step, name=operation.name)
            return InFlight(operation, forward, batch=batch)
        prepared_step = active.run.prepare_step(_step_request(assignment, step, batch.datums))
        return InFlight(operation, prepared_step, batch=batch if batch.metrics else None)
    assert operation.name is not None
    final = operation.step == active.operations.last_step
    ttl_s = expiry(assignment, final=final)
    if operation.policy:
        # deleted behind the run; it expires if nobody is left to do that
        ttl_s = SAMPLER_TTL_S
    prepared = active.run.prepare_save(operation.name, step=operation.step, kind=operation.kind, ttl_s=ttl_s)
    return InFlight(operation, prepared)


async def _prepare_objective(
    assignment: Assignment, objective: Objective, active: ActiveRun, operation: Operation
) -> InFlight:
    batch, forward = active.forwards[operation.step]
    value = await assignment.wait(asyncio.to_thread(objective.evaluate, batch.for_objective, forward))
    prepared = active.run.prepare_step(_step_request(assignment, operation.step, value.batch))
    del active.forwards[operation.step]
    return InFlight(operation, prepared, objective=value)


def _step_request(assignment: Assignment, step: int, batch: Sequence[Datum]) -> StepRequest:
    payload = assignment.payload
    return StepRequest(
        step=step,
        batch=batch,
        optimizer=assignment.plan.optimizer_at(step),
        loss_fn=payload.loss_fn,
        loss_config=payload.loss_fn_config,
    )


async def fill(assignment: Assignment, active: ActiveRun) -> None:
    """Prepare, journal and send operations until the pipeline is full. A save is sent right behind its step, so
    that the pipeline does not drain for it. A batch that is not ready is awaited only if nothing is in flight.

    Raises:
        CrucibleError: an earlier send failed, or the batch cannot be made.
        BackendError: an open intent of the earlier owner cannot be repeated.
    """
    active.sender.start()
    assignment.batches.depth = max(assignment.batches.depth, _depth(assignment, active))
    fresh: list[InFlight] = []
    new: list[InFlight] = []
    while (operation := active.operations.peek()) is not None and not _must_wait(
        assignment, active, operation, fresh
    ):
        entry = await _prepare(assignment, active, operation)
        active.operations.advance(operation)
        fresh.append(entry)
        if not _repeats(active, entry):
            new.append(entry)
    if active.operations.finished and active.expected:
        raise _irreproducible(active, active.expected[0])
    await _journal(assignment, active, new)
    active.in_flight.extend(fresh)
    active.sender.start()


def _must_wait(assignment: Assignment, active: ActiveRun, operation: Operation, fresh: Sequence[InFlight]) -> bool:
    """Return whether an operation must wait until one in flight is finished."""
    ahead = (*active.in_flight, *fresh)
    if _must_serialize(active, fresh) or _may_stop(assignment, active, operation, ahead):
        return True
    if operation.is_evaluation:
        depth = 1 if operation.plays else _depth(assignment, active)
        return sum(entry.operation.is_evaluation for entry in ahead) >= depth
    if operation.kind is IntentKind.STEP and assignment.objective is not None and not operation.skipped:
        return operation.step not in active.forwards
    if operation.kind not in (IntentKind.STEP, IntentKind.FORWARD):
        return False
    steps_ahead = sum(entry.operation.kind is IntentKind.STEP for entry in ahead)
    if steps_ahead >= _depth(assignment, active):
        return True
    return bool(ahead) and not operation.skipped and not assignment.batches.ready(operation.step)


def _depth(assignment: Assignment, active: ActiveRun) -> int:
    return steps_in_flight(assignment.payload, ahead=active.run.features.sends_ahead)


def _may_stop(assignment: Assignment, active: ActiveRun, operation: Operation, ahead: Sequence[InFlight]) -> bool:
    """Return whether an evaluation in flight may stop the run before an operation: then nothing is sent past it."""
    policy = assignment.payload.early_stopping
    evaluated = {entry.operation.step for entry in ahead if entry.operation.is_evaluation}
    if operation.evaluates is not None:
        evaluated.discard(operation.step)
    if policy is None or not evaluated:
        return False
    values = stopping_values(assignment.payload, active.progress.evaluations)
    return policy.may_stop(values, len(evaluated))


def _repeats(active: ActiveRun, entry: InFlight) -> bool:
    """Return whether an operation repeats an open intent of the earlier owner.

    Raises:
        BackendError: it differs from the intent.
    """
    if entry.prepared is None or not active.expected:
        return False
    intent = active.expected.popleft()
    if entry.prepared.intent != intent:
        raise _irreproducible(active, intent)
    return True


def _irreproducible(active: ActiveRun, intent: Intent) -> BackendError:
    return BackendError(
        f"the open {intent.kind} of step {intent.step} cannot be rebuilt as it was journaled",
        backend=active.run.ref.backend,
        details={"run_id": intent.run_id, "seq_id": intent.first_seq_id},
    )


def _must_serialize(active: ActiveRun, fresh: Sequence[InFlight]) -> bool:
    """Return whether the next operation must wait for those before it. A service without a record of sequence
    numbers may execute requests out of order, which changes what a step computes and what a save contains."""
    if active.run.features.replays is True:
        return False
    return any(not entry.operation.skipped for entry in (*active.in_flight, *fresh))


async def _journal(assignment: Assignment, active: ActiveRun, entries: Iterable[InFlight]) -> None:
    intents: list[Intent] = []
    for entry in entries:
        if entry.prepared is None:
            continue
        if entry.operation.kind is not IntentKind.SAVE_STATE:
            intents.append(entry.prepared.intent)
            continue
        if intents:
            await assignment.journal.intend(active.record.generation, intents)
            intents = []
        final = entry.operation.step == active.operations.last_step
        await assignment.journal.plan_checkpoint(
            _pending_checkpoint(active, entry.operation, final=final),
            entry.prepared.intent,
            ttl_s=expiry(assignment, final=final),
        )
    if intents:
        await assignment.journal.intend(active.record.generation, intents)


def _pending_checkpoint(active: ActiveRun, operation: Operation, *, final: bool) -> CheckpointRecord:
    assert operation.name is not None
    return CheckpointRecord(
        name=operation.name, step=operation.step, generation=active.record.generation, final=final
    )


async def finish_oldest(assignment: Assignment, active: ActiveRun, wait: Awaiter) -> None:
    """Await the oldest result in flight and record it.

    Raises:
        RunCorrupted: the loss of a step is not finite, or as ``finish_save``.
        CrucibleError: the operation failed, or an earlier send did.
    """
    entry = active.in_flight[0]
    if entry.operation.plays:
        await _record_tasks(assignment, active, entry.operation, wait)
    elif entry.prepared is None:
        await _record_skipped(assignment, active, entry.operation, wait)
    else:
        if entry.unsent:
            await wait(active.sender.sent(entry))
        pending: Pending[Any] | None = entry.pending
        assert pending is not None
        result: StepResult | SaveResult | ForwardResult = await wait(pending.result())
        intent = entry.prepared.intent
        await _record(assignment, active, entry, intent, result, wait)
        if (name := _SPANS.get(intent.kind)) is not None:
            numbers = {"nsai_work.step": intent.step, "nsai_work.generation": active.record.generation}
            record_span(name, entry.began_ns, numbers)
    active.in_flight.popleft()


async def _record(
    assignment: Assignment,
    active: ActiveRun,
    entry: InFlight,
    intent: Intent,
    result: StepResult | SaveResult | ForwardResult,
    wait: Awaiter,
) -> None:
    if isinstance(result, ForwardResult) and entry.operation.evaluates is not None:
        await _record_pass(assignment, active, entry, intent, result, wait)
    elif isinstance(result, ForwardResult):
        # its intent stays open until its step is recorded: a new owner needs the log-probabilities too
        assert entry.batch is not None
        active.forwards[intent.step] = (entry.batch, result)
    elif isinstance(result, StepResult):
        if entry.objective is not None:
            metrics = {**result.metrics, **entry.objective.metrics}
            result = replace(result, loss=entry.objective.loss, metrics=metrics)
        elif entry.batch is not None:
            added = assignment.batches.source.step_metrics(entry.batch, result)
            result = replace(result, metrics={**result.metrics, **added})
        await _record_step(assignment, active, intent, result)
    elif intent.kind is IntentKind.SAVE_STATE:
        await finish_save(assignment, active, intent, result, wait)
    elif entry.operation.policy:
        await finish_policy(assignment, active, intent, result, wait)
    else:
        await finish_sampler(assignment, active, intent, result, wait)


async def _record_pass(
    assignment: Assignment, active: ActiveRun, entry: InFlight, intent: Intent, result: ForwardResult, wait: Awaiter
) -> None:
    """Account for a forward pass of an evaluation. The last one completes it, and may stop the run."""
    operation = entry.operation
    assert entry.batch is not None
    assert operation.evaluates is not None
    scoring = asyncio.to_thread(score, entry.batch, result, assignment.objective)
    active.scores[operation.evaluates] = await wait(scoring)
    if operation.evaluates < active.operations.passes - 1:
        return
    scores = [active.scores[number] for number in range(active.operations.passes)]
    record = evaluation_of(scores, intent.step, active.record.generation)
    if EVAL_LOSS not in record.metrics:
        raise RunCorrupted(
            f"the loss of the evaluation at step {intent.step} is not finite",
            backend=active.run.ref.backend,
            details={"run_id": active.run.ref.run_id, "step": intent.step},
        )
    active.scores.clear()
    await _record_evaluation(assignment, active, operation, record, intent.last_seq_id)


async def _record_tasks(assignment: Assignment, active: ActiveRun, operation: Operation, wait: Awaiter) -> None:
    """Await an evaluation by rollouts, and record it, unless an earlier owner or run has."""
    assert assignment.tasks is not None
    if _is_evaluated(active, operation.step):
        return
    record = await wait(assignment.tasks.result(operation.step))
    await _record_evaluation(assignment, active, operation, record, 0)


def _is_evaluated(active: ActiveRun, step: int) -> bool:
    return any(known.step == step for known in active.progress.evaluations)


async def _record_evaluation(
    assignment: Assignment, active: ActiveRun, operation: Operation, record: EvaluationRecord, last_seq_id: int
) -> None:
    """Record an evaluation, which may stop the run."""
    require_stopping_metric(assignment.payload, record)
    await assignment.journal.complete_evaluation(record, last_seq_id)
    active.progress.evaluations.append(record)
    await check_evaluation(assignment, active, record)
    if early_stop(assignment.payload, active.progress.evaluations) is not None:
        active.operations.stop(operation)


async def _record_step(assignment: Assignment, active: ActiveRun, intent: Intent, result: StepResult) -> None:
    if not math.isfinite(result.loss):
        raise RunCorrupted(
            f"the loss of step {intent.step} is {result.loss}",
            backend=active.run.ref.backend,
            details={"run_id": active.run.ref.run_id, "step": intent.step},
        )
    record = StepRecord(
        step=intent.step,
        epoch=assignment.plan.epoch(intent.step),
        loss=result.loss,
        tokens=result.tokens,
        learning_rate=assignment.plan.learning_rate(intent.step),
        generation=active.record.generation,
        metrics={name: value for name, value in result.metrics.items() if math.isfinite(value)},
    )
    await assignment.journal.complete_step(record, intent.last_seq_id, _progress(assignment, active, record))
    active.progress.advance(record)
    await check_resume(assignment, active, record)


def _progress(assignment: Assignment, active: ActiveRun, record: StepRecord) -> dict[str, JsonValue]:
    rate = active.tokens_per_s(assignment.clock.monotonic(), record.tokens)
    return {
        "total_steps": assignment.plan.total_steps,
        "tokens_per_s": None if rate is None else round(rate, 1),
    }


async def _record_skipped(assignment: Assignment, active: ActiveRun, operation: Operation, wait: Awaiter) -> None:
    """Record a skipped step: zero tokens, and the loss of the step before it."""
    step = operation.step
    record = StepRecord(
        step=step,
        epoch=assignment.plan.epoch(step),
        loss=active.progress.last.loss if active.progress.last else 0.0,
        tokens=0,
        learning_rate=0.0,
        generation=active.record.generation,
        metrics={SKIPPED: 1.0},
    )
    # 0 closes no intent: nothing was sent
    await assignment.journal.complete_step(record, 0, _progress(assignment, active, record))
    active.progress.advance(record)
    batch = await wait(assignment.batches.batch(step))
    await assignment.journal.event("step.skipped", {"step": step, "lines": [*batch.lines]})
