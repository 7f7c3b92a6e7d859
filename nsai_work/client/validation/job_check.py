"""Validates jobs before they are stored: checks everything that can be known at submit.

If the service of a backend cannot be reached, or this process lacks its credential, the job is accepted as
unverified, with the reason. A worker checks it before it runs.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from pydantic import JsonValue

from crucible.backend import Backend, CommandBackend, TrainingBackend
from crucible.errors import (
    AuthenticationFailed,
    BackendError,
    CallerError,
    CommandMissing,
    CredentialMissing,
    CrucibleError,
    PluginError,
    Unsupported,
)
from crucible.registry import InstalledBackends, installed_backends
from crucible.runtime.checked_calls import require_known_options
from crucible.values.suggestions import known_names
from nsai_work.client.validation.asked_models_check import check_asked_models
from nsai_work.client.validation.data_check import DataCheck, check_shares
from nsai_work.client.validation.job_place import about
from nsai_work.client.validation.loss_check import check_loss
from nsai_work.client.validation.metric_check import check_metrics
from nsai_work.client.validation.offered_parts import command_backend, no_commands, no_training, training_backend
from nsai_work.client.validation.teacher_check import check_penalty, check_teachers
from nsai_work.client.validation.unused_fields import refuse_unused_fields
from nsai_work.concurrency.coroutine_runner import run_blocking
from nsai_work.credentials import refuse_credentials
from nsai_work.errors import InvalidJob
from nsai_work.files.user_paths import expanded
from nsai_work.job import Job
from nsai_work.payloads import (
    BASE_REFERENCE,
    CommandPayload,
    DataSource,
    DistillationStep,
    Inference,
    Payload,
    PreferenceStep,
    ReinforcementStep,
    TrainingStep,
)
from nsai_work.placement import candidate_backends
from nsai_work.sinks.registry import load_sink
from nsai_work.training.objectives import require_objective

MAX_CONCURRENT_CHECKS: Final = 16


@dataclass(frozen=True, slots=True)
class ValidatedJob:
    """A job with its input files pinned by digest. ``unverified`` says why no backend could check it; else None."""

    job: Job
    unverified: str | None


@dataclass(frozen=True, slots=True)
class _ParsedJob:
    """A job with its payload, which is parsed once for all checks."""

    job: Job
    payload: Payload

    @classmethod
    def of(cls, job: Job) -> Self:
        return cls(job, job.parsed_payload)


def validate_jobs(
    jobs: Sequence[Job],
    *,
    timeout_s: float,
    runs_here: bool = False,
    data_check: DataCheck | None = None,
    are_stored: Callable[[Sequence[Job]], Sequence[bool]] = lambda jobs: [False] * len(jobs),
) -> list[ValidatedJob]:
    """Validate jobs, and pin their input files. Each backend has ``timeout_s`` for its checks. ``data_check`` reads
    the training data; without it, that is left to the worker.

    ``are_stored`` says which jobs an earlier submission has stored, by idempotency key. What may have changed
    since is not checked again for them.

    A backend whose credential or command this process lacks leaves its jobs unverified, since a worker may have
    it; with ``runs_here``, no other process will run the jobs, and it is an error.

    Raises:
        InvalidJob, InvalidRequest, UnknownBackend, Unsupported, AuthenticationFailed, PluginError: a job is wrong.
            The error is that of the first invalid job.
    """
    installed = installed_backends()
    parsed_jobs = [_check_fields(job, installed) for job in jobs]
    pinned = [_pinned(parsed, installed) for parsed in parsed_jobs]
    stored = are_stored([entry.job for entry in pinned])
    new = [entry for entry, is_stored in zip(pinned, stored, strict=True) if not is_stored]
    for entry in new:
        with about(entry.job.id):
            _require_model(entry.payload)
            _check_output(entry.payload)
            check_shares(entry.payload)
    with_backend = [entry for entry in new if entry.job.kind != "composite"]
    unverified: Mapping[str, str] = {}
    if with_backend:
        unverified = run_blocking(_check_at_backends(with_backend, installed, timeout_s, runs_here, data_check))
    if data_check is not None:
        data_check.read([(entry.job.id, entry.payload) for entry in new])
        unverified = {**data_check.unchecked, **unverified}
    return [ValidatedJob(entry.job, unverified.get(entry.job.id)) for entry in pinned]


def _check_fields(job: Job, installed: InstalledBackends) -> _ParsedJob:
    with about(job.id):
        refuse_credentials(
            {"payload": job.payload, "metadata": job.metadata, "tags": list(job.tags), "name": job.name}
        )
        parsed = _ParsedJob.of(job)
        refuse_unused_fields(job, parsed.payload)
        _check_backend_names(job, installed)
        return parsed


def _pinned(parsed: _ParsedJob, installed: InstalledBackends) -> _ParsedJob:
    with about(parsed.job.id):
        return _pin_files(_pin_model(parsed, installed))


def _pin_model(parsed: _ParsedJob, installed: InstalledBackends) -> _ParsedJob:
    """Name the default model that this process's user has set: a worker may have another."""
    job = parsed.job
    if not _lacks_model(parsed.payload):
        return parsed
    try:
        model = installed.backend_class(job.backend).configured_model()
    except PluginError:
        # reported by the later check of the backend
        return parsed
    if model is None:
        return parsed
    prompt: Any = job.payload["prompt"]
    return _with_payload(job, prompt={**prompt, "options": {**prompt.get("options", {}), "model": model}})


def _lacks_model(payload: Payload) -> bool:
    if not isinstance(payload, Inference) or payload.prompt is None or payload.model is not None:
        return False
    return payload.prompt.options.model is None


def _require_model(payload: Payload) -> None:
    """As for each prompt of a batch: a backend's default model may be one that costs more."""
    if _lacks_model(payload):
        raise InvalidJob.of(
            "payload.prompt.options.model", None, "name the model; nsai-work backends lists those of each backend"
        )
    if isinstance(payload, Inference) and payload.score and payload.prompt is not None:
        from nsai_work.inference import score_problem

        if (problem := score_problem(payload.prompt)) is not None:
            raise InvalidJob(f"payload.prompt: {'; '.join(problem)}", details={"field": "payload.prompt"})


def _check_output(payload: Payload) -> None:
    if isinstance(payload, Inference) and payload.output is not None:
        from nsai_work.inference import refuse_existing

        refuse_existing(payload)


def _check_backend_names(job: Job, installed: InstalledBackends) -> None:
    known = installed.names()
    if job.backend not in known:
        installed.load(job.backend)  # raises UnknownBackend, which lists the known names
    for field in ("required_backends", "preferred_backends", "excluded_backends"):
        for name in getattr(job.constraints, field):
            if name not in known:
                raise InvalidJob.of(f"constraints.{field}", name, known_names(name, known))


def _pin_files(parsed: _ParsedJob) -> _ParsedJob:
    job, payload = parsed.job, parsed.payload
    if isinstance(payload, TrainingStep):
        from nsai_work.training.evaluation import pin_examples

        if not payload.data.files():
            return parsed
        data, evaluation = pin_examples(payload.data, payload.eval)
        changes: dict[str, JsonValue] = {"data": data.model_dump(mode="json")}
        if evaluation is not None:
            changes["eval"] = evaluation.model_dump(mode="json", exclude_none=True)
        return _with_payload(job, **changes)
    if isinstance(payload, Inference) and payload.input is not None:
        return _pin_batch(job, payload.input, require_model=payload.model is None, scored=payload.score)
    return parsed


def _pin_batch(job: Job, source: DataSource, *, require_model: bool, scored: bool) -> _ParsedJob:
    from nsai_work.inference import pin_prompts

    output = job.payload["output"]
    if isinstance(output, str):
        # a worker runs in another directory
        output = str(expanded(output).absolute())
    pinned = pin_prompts(source, require_model=require_model, scored=scored)
    return _with_payload(job, input=pinned.model_dump(mode="json"), output=output)


def _with_payload(job: Job, **changes: JsonValue) -> _ParsedJob:
    return _ParsedJob.of(job.model_copy(update={"payload": {**job.payload, **changes}}))


async def _check_at_backends(
    jobs: Sequence[_ParsedJob],
    installed: InstalledBackends,
    timeout_s: float,
    runs_here: bool,
    data_check: DataCheck | None,
) -> dict[str, str]:
    """Check jobs at each of their candidate backends. Returns the reasons of unverified jobs, by job id."""
    by_backend: dict[str, list[_ParsedJob]] = {}
    for parsed in jobs:
        for name in candidate_backends(parsed.job):
            by_backend.setdefault(name, []).append(parsed)
    unverified: dict[str, str] = {}
    for name, group in by_backend.items():
        kind = installed.backend_class(name)
        for parsed in group:
            with about(parsed.job.id):
                _check_offer(kind, name, parsed.payload)
        try:
            backend = installed.load(name)
        except CredentialMissing as error:
            _raise_if_permanent(error, runs_here)
            unverified.update((parsed.job.id, _reason(error)) for parsed in group)
        else:
            unverified.update(await _check_at_backend(backend, group, timeout_s, runs_here, data_check))
    return unverified


async def _check_at_backend(
    backend: Backend,
    jobs: Sequence[_ParsedJob],
    timeout_s: float,
    runs_here: bool,
    data_check: DataCheck | None,
) -> dict[str, str]:
    groups = _group_equal_checks(jobs)
    try:
        async with asyncio.timeout(timeout_s), backend:
            errors = await _run_checks(backend, [group[0].payload for group in groups])
            if data_check is not None:
                good = [group for group, error in zip(groups, errors, strict=True) if error is None]
                await data_check.find_models(
                    backend, [(entry.job.id, entry.payload) for group in good for entry in group]
                )
    except TimeoutError:
        return {parsed.job.id: f"{backend.name} did not answer in {timeout_s:g} s" for parsed in jobs}
    except BackendError as error:
        _raise_if_permanent(error, runs_here)
        return {parsed.job.id: _reason(error) for parsed in jobs}
    unverified: dict[str, str] = {}
    for group, failure in zip(groups, errors, strict=True):
        with about(group[0].job.id):
            _raise_if_permanent(failure, runs_here)
        if failure is not None:
            unverified |= {parsed.job.id: _reason(failure) for parsed in group}
    return unverified


def _reason(error: CrucibleError) -> str:
    return f"{error.code}: {error.message}"


def _raise_if_permanent(error: CrucibleError | None, runs_here: bool) -> None:
    """Raise an error that a retry cannot help. Any other error leaves its jobs unverified."""
    if isinstance(error, CommandMissing | CredentialMissing) and not runs_here:
        return
    if isinstance(error, CallerError | AuthenticationFailed | PluginError):
        raise error


def _group_equal_checks(jobs: Sequence[_ParsedJob]) -> list[list[_ParsedJob]]:
    """Group jobs whose checks are equal, so that each check is sent once."""
    if len(jobs) == 1:
        return [list(jobs)]
    groups: dict[str, list[_ParsedJob]] = {}
    for parsed in jobs:
        groups.setdefault(_check_key(parsed.payload), []).append(parsed)
    return list(groups.values())


def _check_key(payload: Payload) -> str:
    checked = payload.run_spec() if isinstance(payload, TrainingStep) else payload
    forward = payload.needs_forward if isinstance(payload, TrainingStep) else None
    reference = payload.reference if isinstance(payload, PreferenceStep) else None
    start = payload.init_from if isinstance(payload, TrainingStep) else None
    teachers = payload.teachers() if isinstance(payload, DistillationStep) else None
    asked = references = teacher = None
    if isinstance(payload, ReinforcementStep):
        asked, references, teacher = (
            [(place, spec.models) for place, spec in payload.environments().items()],
            payload.references(),
            payload.teacher,
        )
    named = (forward, reference, start, teachers, asked, references, teacher)
    return f"{type(payload).__name__} {named!r} {checked.model_dump_json()}"


async def _run_checks(backend: Backend, payloads: Sequence[Payload]) -> list[CrucibleError | None]:
    if len(payloads) == 1:
        return [await _error_of_check(backend, payloads[0])]
    slots = asyncio.Semaphore(MAX_CONCURRENT_CHECKS)

    async def run_in_slot(payload: Payload) -> CrucibleError | None:
        async with slots:
            return await _error_of_check(backend, payload)

    return list(await asyncio.gather(*map(run_in_slot, payloads)))


async def _error_of_check(backend: Backend, payload: Payload) -> CrucibleError | None:
    try:
        await _check(backend, payload)
    except (CallerError, BackendError) as error:
        return error
    return None


async def _check(backend: Backend, payload: Payload) -> None:
    if isinstance(payload, TrainingStep):
        await training_backend(backend).check_spec(payload.run_spec())
        await _check_checkpoints(backend, payload)
        if isinstance(payload, DistillationStep):
            await check_teachers(training_backend(backend), payload)
        if isinstance(payload, ReinforcementStep):
            await check_penalty(training_backend(backend), payload)
            for place, spec in payload.environments().items():
                await check_asked_models(training_backend(backend), place, spec)
        field = payload.needs_forward
        if field is not None and not (await backend.capabilities()).supports_forward:
            raise Unsupported(
                f"payload.{field}: {backend.name!r} has no forward passes, which this needs", backend=backend.name
            )
    elif isinstance(payload, Inference):
        if payload.score:
            from nsai_work.inference import AnswerScorer

            AnswerScorer(backend)  # refuses a backend that scores none
        elif payload.prompt is not None:
            await backend.check_prompt(payload.prompt)
    elif isinstance(payload, CommandPayload):
        command, commands = payload.to_command(), command_backend(backend)
        require_known_options(commands, command)
        await commands.check_command(command)


async def _check_checkpoints(backend: Backend, payload: TrainingStep) -> None:
    """Check the checkpoints that a job names by their paths."""
    named: dict[str, str] = {}
    reference = payload.reference if isinstance(payload, PreferenceStep) else None
    if isinstance(reference, str) and reference != BASE_REFERENCE:
        named["payload.reference"] = reference
    if payload.init_from is not None and payload.init_from.path is not None:
        named["payload.init_from"] = payload.init_from.path
    for field, path in named.items():
        check = await training_backend(backend).check_checkpoint(path, payload.run_spec())
        if not check.usable:
            raise InvalidJob.of(field, path, check.reason or "it is not usable")


def _check_offer(kind: type[Backend], backend: str, payload: Payload) -> None:
    """Check what the backend's class says of itself, before one is created, so that a missing credential and an
    unreachable or slow service cannot leave it unverified: the kind of job, the loss and the metric."""
    if isinstance(payload, CommandPayload) and not issubclass(kind, CommandBackend):
        raise no_commands(backend)
    if not isinstance(payload, TrainingStep):
        return
    if not issubclass(kind, TrainingBackend):
        raise no_training(backend)
    if payload.objective is not None:
        require_objective(payload.objective.name)
    check_loss(kind, backend, payload)
    for spec in payload.sinks:
        load_sink(spec)
    check_metrics(kind, payload)
