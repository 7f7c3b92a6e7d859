"""Jobs that read the results of others: their order, their dependencies, and the checks at submit."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from crucible.backend import Command, CommandBackend
from crucible.errors import CommandMissing, CrucibleError, InvalidRequest, NotFound
from crucible.registry import load_backend
from nsai_work.client.checkpoints.job_model import model_of_job
from nsai_work.client.validation.job_place import about
from nsai_work.concurrency.coroutine_runner import run_blocking
from nsai_work.errors import InvalidJob, JobNotFound
from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus
from nsai_work.payloads import CommandPayload, Inference, TrainingStep
from nsai_work.payloads.reads import JobRead, ReadKind, job_reads, jobs_read, with_renamed_jobs
from nsai_work.policies import CheckpointStrategy

if TYPE_CHECKING:
    from nsai_work.store import Store
    from nsai_work.store.submit.general import IdempotencyKey

FUNCTIONS: Final = "python"
"""The backend that runs the functions which map rows."""


def has_reads(jobs: Sequence[Job]) -> bool:
    """Return whether one of the jobs reads what another job makes."""
    return any(jobs_read(job.payload) for job in jobs)


def in_order(jobs: Sequence[Job]) -> list[Job]:
    """Return jobs in their order, but each after those that it reads and depends on.

    Raises:
        InvalidJob: they wait for each other; the error names a circle of jobs.
    """
    places = {job.id: place for place, job in enumerate(jobs)}
    before: dict[int, list[int]] = {}
    for place, job in enumerate(jobs):
        needs = [name for name in job.constraints.depends_on if name != job.id]
        before[place] = [places[name] for name in (*needs, *jobs_read(job.payload)) if name in places]
    if not any(before.values()):
        return [*jobs]
    graph = TopologicalSorter(before)
    try:
        graph.prepare()
    except CycleError as error:
        circle = [*reversed(error.args[1])]
        names = " -> ".join(jobs[place].name or f"jobs[{place}]" for place in circle)
        raise InvalidJob(
            f"jobs: {names}: they wait for each other in a circle; remove one of these references",
            details={"jobs": [jobs[place].id for place in circle]},
        ) from None
    ordered: list[Job] = []
    ready: list[int] = []
    while graph.is_active():
        for place in graph.get_ready():
            heappush(ready, place)
        place = heappop(ready)
        ordered.append(jobs[place])
        graph.done(place)
    return ordered


def with_dependencies(jobs: Sequence[Job], store: "Store") -> list[Job]:
    """Return jobs, given in order, that depend on those which they read.

    Where an earlier submission has stored a job under the same idempotency key, the others read that one.

    Raises:
        InvalidJob: a job reads another one that does not exist, is of the wrong kind, or cannot have what is read.
    """
    earlier = _stored_earlier(jobs, store)
    jobs = [with_other_jobs(job, lambda name: earlier.get(name, name)) for job in jobs]
    known = {job.id: job for job in jobs}
    checked = []
    for job in jobs:
        reads = job_reads(job.parsed_payload)
        for read in reads:
            with about(job.id):
                _check(job, read, known.get(read.job) or _stored(store, job, read), store)
        needs = dict.fromkeys([*job.constraints.depends_on, *(read.job for read in reads)])
        constraints = job.constraints.model_copy(update={"depends_on": tuple(needs)})
        checked.append(job.model_copy(update={"constraints": constraints}) if reads else job)
    return checked


def with_other_jobs(job: Job, rename: Callable[[str], str]) -> Job:
    """Return a job that reads and depends on other jobs in the place of some."""
    payload = with_renamed_jobs(job.payload, rename)
    needs = tuple(rename(name) for name in job.constraints.depends_on)
    if payload == job.payload and needs == job.constraints.depends_on:
        return job
    constraints = job.constraints.model_copy(update={"depends_on": needs})
    return job.model_copy(update={"payload": payload, "constraints": constraints})


def _stored_earlier(jobs: Sequence[Job], store: "Store") -> Mapping[str, str]:
    keys: dict[str, IdempotencyKey] = {
        job.id: (job.tenant_id, job.namespace, job.idempotency_key)
        for job in jobs
        if job.idempotency_key is not None
    }
    found = store.submitted_ids(list(keys.values())) if keys else {}
    return {job_id: found[key] for job_id, key in keys.items() if key in found}


def _stored(store: "Store", job: Job, read: JobRead) -> Job:
    try:
        return store.get(read.job, job.tenant_id)
    except JobNotFound:
        raise _refused(
            read,
            f"there is no job {read.job!r} of tenant {job.tenant_id!r}; name one by its whole id, or by its "
            "ref in the same file",
        ) from None


def _refused(read: JobRead, problem: str) -> InvalidJob:
    return InvalidJob(f"{read.field}.job: {problem}", details={"field": f"{read.field}.job", "job_id": read.job})


def _check(job: Job, read: JobRead, other: Job, store: "Store") -> None:
    """Check that a job can have what is read of it, as far as that is known."""
    payload = other.parsed_payload
    if read.kind is ReadKind.ROWS:
        if not isinstance(payload, Inference | CommandPayload):
            raise _refused(
                read,
                f"{other.id} is a job of kind {other.kind}, which makes no rows; name a batch or a function",
            )
    elif not isinstance(payload, TrainingStep):
        raise _refused(read, f"{other.id} is a job of kind {other.kind}, which trains no model")
    else:
        _check_model(job, read, other, payload)
    if not other.status.ended:
        if read.field == "payload.continue_from":
            raise _refused(read, f"{other.id} is {other.status}; only a run that has ended goes on")
        return
    if other.status is not JobStatus.SUCCEEDED:
        raise _refused(read, f"{other.id} has ended as {other.status}; retry it, or name what it has by its path")
    if read.kind is not ReadKind.ROWS:
        try:
            found = model_of_job(store, other, str(read.checkpoint))
        except (NotFound, InvalidRequest) as error:
            raise InvalidJob(
                f"{read.field}.{error.message}", details={**error.details, "field": f"{read.field}.checkpoint"}
            ) from error
        _check_step(job, read, found.checkpoint.step)


def _check_step(job: Job, read: JobRead, step: int) -> None:
    """Check that a run goes on at the step of its checkpoint."""
    payload = job.parsed_payload
    start = payload.continue_from if isinstance(payload, TrainingStep) else None
    if read.field == "payload.continue_from" and start is not None and start.step != step:
        raise InvalidJob.of(
            "payload.continue_from.step", start.step, f"the checkpoint of {read.job} has {step} steps"
        )


def _check_model(job: Job, read: JobRead, other: Job, made: TrainingStep) -> None:
    if job.backend != other.backend:
        raise _refused(read, f"{other.id} trains at {other.backend!r}, and this job runs at {job.backend!r}")
    own = job.parsed_payload
    if isinstance(own, TrainingStep) and read.kind is ReadKind.CHECKPOINT:
        if own.base_model != made.base_model:
            raise _refused(read, f"{other.id} trains {made.base_model!r}, and this job {own.base_model!r}")
        if (name := made.lora.other_shape(own.lora)) is not None:
            values = getattr(made.lora, name), getattr(own.lora, name)
            raise _refused(read, f"{other.id} trains {name} {values[0]}, and this job {values[1]}")
    if isinstance(read.checkpoint, int) and not _may_save(made, read.checkpoint):
        policy = made.checkpoint_policy
        raise InvalidJob(
            f"{read.field}.checkpoint: {read.checkpoint} is not allowed; {other.id} saves every "
            f"{policy.save_every} steps" + (f" of {made.max_steps}" if made.max_steps else ""),
            details={"field": f"{read.field}.checkpoint", "job_id": other.id},
        )


def _may_save(payload: TrainingStep, step: int) -> bool:
    """Return whether a training job may save the state after a step; where that is not known, it may."""
    policy = payload.checkpoint_policy
    if payload.max_steps is not None and step > payload.max_steps:
        return False
    by_epoch = policy.strategy in (CheckpointStrategy.EPOCH, CheckpointStrategy.ALL)
    unknown = by_epoch or payload.is_best_by_evaluation or payload.early_stopping or payload.max_steps is None
    return bool(unknown) or step % policy.save_every == 0 or step == payload.max_steps


def check_functions(jobs: Sequence[Job], *, timeout_s: float, runs_here: bool) -> dict[str, str]:
    """Check the functions that map rows. Returns the reasons of the jobs whose functions are not to be had in this
    process, by job id: a worker may have them.

    Raises:
        InvalidJob: a function does not exist, or takes no row.
        CommandMissing: it is not to be had here, where the job will run.
    """
    named = {
        (job.id, read.field): read.function
        for job in jobs
        for read in job_reads(job.parsed_payload)
        if read.function is not None
    }
    if not named:
        return {}
    missing: dict[str, str] = {}
    problems = run_blocking(_problems(sorted(set(named.values())), timeout_s))
    for (job_id, field), function in named.items():
        error = problems[function]
        if isinstance(error, CommandMissing) and not runs_here:
            missing[job_id] = f"{field}.map: {error.message}"
        elif error is not None:
            details = {**error.details, "field": f"{field}.map"}
            with about(job_id):
                raise InvalidJob(f"{field}.map: {error.message}", details=details) from error
    return missing


async def _problems(functions: Sequence[str], timeout_s: float) -> dict[str, CrucibleError | None]:
    found: dict[str, CrucibleError | None] = {}
    backend = load_backend(FUNCTIONS)
    assert isinstance(backend, CommandBackend)
    async with backend:
        for function in functions:
            try:
                async with asyncio.timeout(timeout_s):
                    await backend.check_command(Command(name=function, arguments={"row": {}}))
            except CrucibleError as error:
                found[function] = error
            except TimeoutError:
                found[function] = CommandMissing(f"{function}: it was not imported in {timeout_s:g} s")
            else:
                found[function] = None
    return found
