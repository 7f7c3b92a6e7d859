"""The handlers of claimed jobs: one for each kind."""

import asyncio
import importlib
import sys
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from crucible.backend import Backend, CommandBackend, TrainingBackend
from crucible.errors import MalformedAnswer, Unsupported
from crucible.values.json_types import json_problem
from crucible.values.scalars import joined
from nsai_work.clock import Clock
from nsai_work.journal import Journal
from nsai_work.payloads import (
    CommandPayload,
    Composite,
    DistillationStep,
    Inference,
    Payload,
    PreferenceStep,
    ReinforcementStep,
    TrainingStep,
)
from nsai_work.worker.attempts.attempt import Attempt
from nsai_work.worker.attempts.backends import BackendPool
from nsai_work.worker.attempts.job_files import JobFiles
from nsai_work.worker.attempts.job_inputs import JobInputs

_MODULES: Final[dict[type[Payload], str]] = {
    TrainingStep: "nsai_work.training.driver",
    PreferenceStep: "nsai_work.training.driver",
    DistillationStep: "nsai_work.training.driver",
    ReinforcementStep: "nsai_work.training.driver",
    Inference: "nsai_work.inference",
    CommandPayload: "nsai_work.worker.attempts.command",
}


@dataclass(frozen=True, slots=True)
class JobContext:
    """The resources of an attempt: the worker's backends, the files of its jobs, the job's journal, a clock."""

    backends: BackendPool
    files: JobFiles
    journal: Journal
    clock: Clock


async def run_job(attempt: Attempt, context: JobContext) -> dict[str, JsonValue]:
    """Run a claimed job and return its result. Errors of the backend and of the handler are raised unchanged.

    Raises:
        MalformedAnswer: a value of the result has no JSON form, such as NaN. The error names it.
    """
    result = await _run(attempt, context)
    if found := json_problem(result):
        path, problem = found
        raise MalformedAnswer(f"{joined('result', path)}: {problem}", backend=attempt.claim.backend)
    return result


async def _run(attempt: Attempt, context: JobContext) -> dict[str, JsonValue]:
    payload = attempt.claim.job.parsed_payload
    if isinstance(payload, Composite):
        return {}
    await import_handler(payload)
    backend = await context.backends.get(attempt.claim.backend)
    inputs = JobInputs(context.files, context.backends)
    async with (
        context.files.local(attempt.claim, payload) as own,
        inputs.read(attempt.claim, own) as local,
    ):
        if isinstance(local, TrainingStep):
            return await _train(attempt, local, backend, context)
        if isinstance(local, Inference):
            return await _infer(attempt, local, backend, context)
        assert isinstance(local, CommandPayload)
        return await _run_command(attempt, local, backend, context)


async def import_handler(payload: Payload) -> None:
    """Import the module of a kind of jobs before its first job, in a thread: leases are renewed meanwhile."""
    module = _MODULES[type(payload)]
    if module not in sys.modules:
        await asyncio.to_thread(importlib.import_module, module)


async def _train(
    attempt: Attempt, payload: TrainingStep, backend: Backend, context: JobContext
) -> dict[str, JsonValue]:
    if not isinstance(backend, TrainingBackend):
        raise Unsupported(f"{backend.name!r} does not train", backend=backend.name)
    if not payload.sinks:
        return await _drive(attempt, payload, backend, context)
    from nsai_work.sinks.contract import SinkRun
    from nsai_work.sinks.feed import RunSinks, fed_sinks

    job = attempt.claim.job
    folder = context.files.settings.home / "metrics"
    config = payload.model_dump(mode="json", exclude={"sinks"}, exclude_defaults=True)
    run = SinkRun(job.id, job.name, config, folder)
    sinks = RunSinks(payload.sinks, run, context.journal, context.clock.monotonic)
    async with fed_sinks(sinks) as finish:
        result = await _drive(attempt, payload, backend, context)
        return {**result, **await finish()}


async def _drive(
    attempt: Attempt, payload: TrainingStep, backend: TrainingBackend, context: JobContext
) -> dict[str, JsonValue]:
    from nsai_work.training.driver import train

    return await train(
        job=attempt.claim.job,
        payload=payload,
        backend=backend,
        journal=context.journal,
        control=attempt.control,
        clock=context.clock,
        allow=context.files.settings.allowed_modules,
    )


async def _infer(
    attempt: Attempt, payload: Inference, backend: Backend, context: JobContext
) -> dict[str, JsonValue]:
    from nsai_work.inference import run_inference

    return await run_inference(payload, backend, control=attempt.control, journal=context.journal)


async def _run_command(
    attempt: Attempt, payload: CommandPayload, backend: Backend, context: JobContext
) -> dict[str, JsonValue]:
    from nsai_work.worker.attempts.command import run_command

    if not isinstance(backend, CommandBackend):
        raise Unsupported(f"{backend.name!r} runs no commands", backend=backend.name)
    claim = attempt.claim
    return await run_command(
        payload,
        backend,
        job_id=claim.job_id,
        attempt=claim.attempt,
        event=context.journal.event,
        owned_for_s=lambda: attempt.owned_until - context.clock.monotonic(),
    )
