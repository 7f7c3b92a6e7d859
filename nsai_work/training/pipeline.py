"""The pipeline: prepare, journal, have it sent; then await the oldest result and record it.

Operations are recorded in the order in which they were sent, whatever the service finishes first. So the open
intents of a run that is taken over are always its newest ones, and all steps before a recorded one are recorded.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import JsonValue

from crucible.errors import RunCorrupted
from crucible.training import Intent, IntentKind, Pending, SaveResult, StepRequest, StepResult
from nsai_work.interruptible import Wait
from nsai_work.journal import CheckpointRecord, StepRecord
from nsai_work.training.checkpoints import finish_sampler, finish_save
from nsai_work.training.in_flight import InFlight
from nsai_work.training.lineage import SKIPPED
from nsai_work.training.operations import Operation
from nsai_work.training.resume import check_resume
from nsai_work.training.run_state import Assignment, Live, expiry, known_metrics


def prepare(assignment: Assignment, live: Live, operation: Operation) -> InFlight:
    """Reserve sequence numbers for an operation. Nothing is sent."""
    if operation.skipped:
        return InFlight(operation)
    if operation.kind is IntentKind.STEP:
        return InFlight(operation, live.run.prepare_step(step_request(assignment, operation.step)))
    assert operation.name is not None
    final = operation.step == assignment.plan.total_steps
    prepared = live.run.prepare_save(
        operation.name, step=operation.step, kind=operation.kind, ttl_s=expiry(assignment, final=final)[0]
    )
    return InFlight(operation, prepared)


def step_request(assignment: Assignment, step: int) -> StepRequest:
    """The request of a step; it follows from the step number alone."""
    plan, payload = assignment.plan, assignment.payload
    return StepRequest(
        step=step,
        batch=assignment.datums.batch(plan.batch(step)),
        optimizer=plan.optimizer_at(step),
        loss_fn=payload.loss_fn,
        loss_config=payload.loss_fn_config,
    )


async def fill(assignment: Assignment, live: Live) -> None:
    """Prepare and journal until the pipeline is full, and have it sent. A save goes out at once behind its step, so
    that the pipeline need not run dry for it.

    Raises:
        CrucibleError: an earlier send failed.
    """
    live.sender.start()
    fresh: list[InFlight] = []
    while (operation := live.agenda.peek(known_metrics(assignment, live))) is not None:
        under_way = live.steps_in_flight + sum(entry.operation.kind is IntentKind.STEP for entry in fresh)
        if operation.kind is IntentKind.STEP and under_way >= assignment.payload.pipeline_depth:
            break
        if _must_wait(live, fresh):
            break
        fresh.append(prepare(assignment, live, operation))
        live.agenda.take(operation)
    await _journal(assignment, live, fresh)
    live.in_flight.extend(fresh)
    live.sender.start()


def _must_wait(live: Live, fresh: Sequence[InFlight]) -> bool:
    """Whether nothing else may be under way: a service that keeps no record of sequence numbers may not keep their
    order either. A step that overtakes another is another step, and a save that does saves another state."""
    if live.run.features.replays is True:
        return False
    return any(not entry.operation.skipped for entry in (*live.in_flight, *fresh))


async def _journal(assignment: Assignment, live: Live, entries: Iterable[InFlight]) -> None:
    held: list[Intent] = []
    for entry in entries:
        if entry.prepared is None:
            continue
        if entry.operation.kind is not IntentKind.SAVE_STATE:
            held.append(entry.prepared.intent)
            continue
        if held:
            await assignment.journal.intend(live.record.generation, held)
            held = []
        await assignment.journal.plan_checkpoint(_row(assignment, live, entry.operation), entry.prepared.intent)
    if held:
        await assignment.journal.intend(live.record.generation, held)


def _row(assignment: Assignment, live: Live, operation: Operation) -> CheckpointRecord:
    assert operation.name is not None
    final = operation.step == assignment.plan.total_steps
    now, lives = assignment.clock.now(), expiry(assignment, final=final)[1]
    return CheckpointRecord(
        name=operation.name,
        step=operation.step,
        generation=live.record.generation,
        final=final,
        created_at=now,
        expires_at=now + lives if lives else None,
    )


async def finish_oldest(assignment: Assignment, live: Live, wait: Wait) -> None:
    """Await the oldest result and record it."""
    entry = live.in_flight[0]
    if entry.prepared is None:
        await _record_skipped(assignment, live, entry.operation)
    else:
        if entry.unsent:
            await wait(live.sender.sent(entry))
        pending: Pending[Any] | None = entry.pending
        assert pending is not None
        result: StepResult | SaveResult = await wait(pending.result())
        await _record(assignment, live, entry.prepared.intent, result, wait)
    live.in_flight.popleft()


async def _record(
    assignment: Assignment, live: Live, intent: Intent, result: StepResult | SaveResult, wait: Wait
) -> None:
    if isinstance(result, StepResult):
        await _record_step(assignment, live, intent, result)
    elif intent.kind is IntentKind.SAVE_STATE:
        await finish_save(assignment, live, intent, result, wait)
    else:
        await finish_sampler(assignment, live, intent, result, wait)


async def _record_step(assignment: Assignment, live: Live, intent: Intent, result: StepResult) -> None:
    if not math.isfinite(result.loss):
        raise RunCorrupted(
            f"the loss of step {intent.step} is {result.loss}",
            backend=live.run.ref.backend,
            details={"run_id": live.run.ref.run_id, "step": intent.step},
        )
    record = StepRecord(
        step=intent.step,
        epoch=assignment.plan.epoch(intent.step),
        loss=result.loss,
        tokens=result.tokens,
        learning_rate=assignment.plan.learning_rate(intent.step),
        generation=live.record.generation,
        metrics={name: value for name, value in result.metrics.items() if math.isfinite(value)},
        recorded_at=assignment.clock.now(),
    )
    await assignment.journal.complete_step(record, intent.last_seq_id, _told(assignment, live, record))
    live.progress.advance(record)
    await check_resume(assignment, live, record)


def _told(assignment: Assignment, live: Live, record: StepRecord) -> dict[str, JsonValue]:
    rate = live.tokens_per_s(assignment.clock.monotonic(), record.tokens)
    return {
        "total_steps": assignment.plan.total_steps,
        "tokens_per_s": None if rate is None else round(rate, 1),
    }


async def _record_skipped(assignment: Assignment, live: Live, operation: Operation) -> None:
    """A step that is left out counts as a step, without tokens and with the loss of the one before it."""
    step = operation.step
    record = StepRecord(
        step=step,
        epoch=assignment.plan.epoch(step),
        loss=live.progress.last.loss if live.progress.last else 0.0,
        tokens=0,
        learning_rate=0.0,
        generation=live.record.generation,
        metrics={SKIPPED: 1.0},
        recorded_at=assignment.clock.now(),
    )
    # no intent has this number: nothing was sent
    await assignment.journal.complete_step(record, 0, _told(assignment, live, record))
    live.progress.advance(record)
    lines = assignment.datums.lines(assignment.plan.batch(step))
    await assignment.journal.event("step.skipped", {"step": step, "lines": [*lines]})
