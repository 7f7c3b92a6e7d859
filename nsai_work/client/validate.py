"""What is checked before a job is stored: all that can be known now, so that a job that is queued can run.

A backend whose service cannot be reached does not refuse the job: it is accepted, and marked as unverified.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime

from pydantic import JsonValue

from crucible.backend import Backend, CommandBackend, TrainingBackend
from crucible.errors import (
    AuthenticationFailed,
    BackendError,
    CallerError,
    CrucibleError,
    PluginError,
    Unsupported,
)
from crucible.registry import InstalledBackends, installed_backends
from nsai_work.blocking import run_blocking
from nsai_work.credentials import refuse_credentials
from nsai_work.errors import InvalidJob
from nsai_work.job import Job
from nsai_work.payloads import CommandPayload, DataSource, Inference, TrainingStep
from nsai_work.placement import candidate_backends
from nsai_work.user_paths import expanded

QUESTIONS_AT_ONCE = 16


def validated(jobs: Sequence[Job], *, now: datetime, timeout_s: float) -> list[tuple[Job, str | None]]:
    """The jobs with their data pinned, each with the reason why its backend could not be asked (or None).

    Raises:
        InvalidJob, InvalidRequest, UnknownBackend, Unsupported, AuthenticationFailed, PluginError: the first job
            that is wrong; nothing has been stored.
    """
    installed = installed_backends()
    for job in jobs:
        _check_fields(job, now, installed)
    pinned = [_pinned(job) for job in jobs]
    needing = [job for job in pinned if job.kind != "composite"]
    if not needing:
        return [(job, None) for job in pinned]
    doubts = run_blocking(_ask_backends(needing, installed, timeout_s))
    return [(job, doubts.get(job.id)) for job in pinned]


def _check_fields(job: Job, now: datetime, installed: InstalledBackends) -> None:
    refuse_credentials({"payload": job.payload, "metadata": job.metadata, "tags": list(job.tags), "name": job.name})
    _check_backend_names(job, installed)
    deadline = job.constraints.deadline
    if deadline is not None and deadline <= now:
        raise InvalidJob(f"constraints.deadline: {deadline.isoformat()} has passed; name a time in the future")


def _check_backend_names(job: Job, installed: InstalledBackends) -> None:
    known = installed.names()
    if job.backend not in known:
        # raises the error that lists the known ones
        installed.load(job.backend)
    for field in ("required_backends", "preferred_backends"):
        for name in getattr(job.constraints, field):
            if name not in known:
                raise InvalidJob.of(f"constraints.{field}", name, f"known are: {', '.join(known)}")


def _pinned(job: Job) -> Job:
    payload = job.parsed_payload
    if isinstance(payload, TrainingStep):
        from nsai_work.training.data import pin_data

        return _with_payload(job, data=pin_data(payload.data).model_dump(mode="json"))
    if isinstance(payload, Inference) and payload.input is not None:
        return _pinned_batch(job, payload.input)
    return job


def _pinned_batch(job: Job, source: DataSource) -> Job:
    from nsai_work.inference import pin_prompts

    # a worker runs in another folder
    output = str(expanded(str(job.payload["output"])).absolute())
    return _with_payload(job, input=pin_prompts(source).model_dump(mode="json"), output=output)


def _with_payload(job: Job, **changes: JsonValue) -> Job:
    return job.model_copy(update={"payload": {**job.payload, **changes}})


async def _ask_backends(jobs: Sequence[Job], installed: InstalledBackends, timeout_s: float) -> dict[str, str]:
    by_backend: dict[str, list[Job]] = {}
    for job in jobs:
        for name in candidate_backends(job):
            by_backend.setdefault(name, []).append(job)
    doubts: dict[str, str] = {}
    for name, group in by_backend.items():
        doubts.update(await _ask(installed.load(name), group, timeout_s))
    return doubts


async def _ask(backend: Backend, jobs: Sequence[Job], timeout_s: float) -> dict[str, str]:
    """Why a job could not be checked, by job id; empty when all were. What many jobs ask alike is asked once."""
    for job in jobs:
        _check_loss(backend, job)
    groups = _alike(jobs)
    try:
        async with asyncio.timeout(timeout_s), backend:
            answers = await _answers(backend, [group[0] for group in groups])
    except TimeoutError:
        return {job.id: f"{backend.name} did not answer in {timeout_s:g} s" for job in jobs}
    except BackendError as error:
        _raise_if_refused(error)
        return {job.id: f"{error.code}: {error.message}" for job in jobs}
    doubts: dict[str, str] = {}
    for group, doubt in zip(groups, answers, strict=True):
        _raise_if_refused(doubt)
        if doubt is not None:
            doubts |= {job.id: f"{doubt.code}: {doubt.message}" for job in group}
    return doubts


def _raise_if_refused(error: CrucibleError | None) -> None:
    """A service that is away leaves a doubt; anything that a retry cannot help refuses the job."""
    if isinstance(error, CallerError | AuthenticationFailed | PluginError):
        raise error


def _alike(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs, those together that ask the same."""
    if len(jobs) == 1:
        return [list(jobs)]
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(_question(job), []).append(job)
    return list(groups.values())


def _question(job: Job) -> str:
    payload = job.parsed_payload
    asked = payload.run_spec() if isinstance(payload, TrainingStep) else payload
    return f"{type(payload).__name__} {asked.model_dump_json()}"


async def _answers(backend: Backend, jobs: Sequence[Job]) -> list[CrucibleError | None]:
    if len(jobs) == 1:
        return [await _answer(backend, jobs[0])]
    places = asyncio.Semaphore(QUESTIONS_AT_ONCE)

    async def in_its_place(job: Job) -> CrucibleError | None:
        async with places:
            return await _answer(backend, job)

    return list(await asyncio.gather(*map(in_its_place, jobs)))


async def _answer(backend: Backend, job: Job) -> CrucibleError | None:
    try:
        await _check(backend, job)
    except (CallerError, BackendError) as error:
        return error
    return None


async def _check(backend: Backend, job: Job) -> None:
    payload = job.parsed_payload
    if isinstance(payload, TrainingStep):
        await _training(backend).check_spec(payload.run_spec())
    elif isinstance(payload, Inference):
        if payload.prompt is not None:
            await backend.check_prompt(payload.prompt)
    elif isinstance(payload, CommandPayload):
        await _commands(backend).check_command(payload.to_command())


def _check_loss(backend: Backend, job: Job) -> None:
    """Before anything is asked: a service that is away, or slow with another job, must not leave this in doubt."""
    payload = job.parsed_payload
    if not isinstance(payload, TrainingStep):
        return
    losses = _training(backend).losses
    if losses and payload.loss_fn not in losses:
        raise InvalidJob.of(
            "payload.loss_fn",
            payload.loss_fn,
            f"{backend.name!r} trains on texts and conversations with {', '.join(losses)}",
        )


def _training(backend: Backend) -> TrainingBackend:
    if not isinstance(backend, TrainingBackend):
        raise Unsupported(f"backend: {backend.name!r} does not train", backend=backend.name)
    return backend


def _commands(backend: Backend) -> CommandBackend:
    if not isinstance(backend, CommandBackend):
        raise Unsupported(f"backend: {backend.name!r} runs no commands", backend=backend.name)
    return backend
