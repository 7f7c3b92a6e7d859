"""What each kind of job does, once it is claimed and its backend is open."""

from dataclasses import dataclass

from pydantic import JsonValue

from crucible.backend import Backend, CommandBackend, TrainingBackend
from crucible.errors import Unsupported
from nsai_work.clock import Clock
from nsai_work.journal import Journal
from nsai_work.payloads import CommandPayload, Composite, Inference, TrainingStep
from nsai_work.worker.attempt import Attempt
from nsai_work.worker.backends import BackendPool


@dataclass(frozen=True, slots=True)
class Tools:
    """What performing a job needs."""

    backends: BackendPool
    journal: Journal
    clock: Clock


async def perform(attempt: Attempt, tools: Tools) -> dict[str, JsonValue]:
    """Do the job's work and return its result. Raises what the work raises."""
    payload = attempt.claim.job.parsed_payload
    if isinstance(payload, Composite):
        return {}
    backend = await tools.backends.get(attempt.claim.backend)
    if isinstance(payload, TrainingStep):
        return await _train(attempt, payload, backend, tools)
    if isinstance(payload, Inference):
        return await _infer(attempt, payload, backend, tools)
    return await _command(payload, backend)


async def _train(attempt: Attempt, payload: TrainingStep, backend: Backend, tools: Tools) -> dict[str, JsonValue]:
    from nsai_work.training.driver import train

    if not isinstance(backend, TrainingBackend):
        raise Unsupported(f"{backend.name!r} does not train", backend=backend.name)
    return await train(
        job=attempt.claim.job,
        payload=payload,
        backend=backend,
        journal=tools.journal,
        control=attempt.control,
        clock=tools.clock,
    )


async def _infer(attempt: Attempt, payload: Inference, backend: Backend, tools: Tools) -> dict[str, JsonValue]:
    from nsai_work.inference import run_inference

    return await run_inference(payload, backend, control=attempt.control, event=tools.journal.event)


async def _command(payload: CommandPayload, backend: Backend) -> dict[str, JsonValue]:
    if not isinstance(backend, CommandBackend):
        raise Unsupported(f"{backend.name!r} runs no commands", backend=backend.name)
    return await backend.execute(payload.to_command())
