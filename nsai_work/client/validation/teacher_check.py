"""The checks at submit of the models that are asked about a run's tokens: teachers, and the reference of a penalty.

They exist, and have the tokens of the model that is trained.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from crucible.backend import TrainingBackend
from crucible.errors import BackendError, CallerError, CredentialMissing, PluginError, Unsupported
from crucible.registry import load_backend
from nsai_work.client.validation.job_place import about
from nsai_work.concurrency.coroutine_runner import run_blocking
from nsai_work.errors import InvalidJob
from nsai_work.job import Job
from nsai_work.payloads import BASE_REFERENCE, DistillationStep, ReinforcementStep, TrainedModel, TrainingStep
from nsai_work.payloads.reads import JobRead, ReadKind, job_reads
from nsai_work.training.sources.teacher import opened_teacher
from nsai_work.training.sources.token_check import require_same_tokens

if TYPE_CHECKING:
    from nsai_work.store import Store


async def check_teachers(backend: TrainingBackend, payload: DistillationStep) -> None:
    """Check the teachers that a job names; ``check_trained_teachers`` checks those of other jobs.

    Raises:
        Unsupported: the backend does not train towards several targets.
        InvalidJob: there is no such model, or it has other tokens than the base model.
    """
    capabilities = await backend.capabilities()
    if not capabilities.supports_soft_targets:
        raise Unsupported(
            f"payload.method: distill trains each token towards several targets, and {backend.name!r} towards one",
            backend=backend.name,
        )
    await _check_models(backend, payload, payload.teachers(), "payload.teacher")


async def check_penalty(backend: TrainingBackend, payload: ReinforcementStep) -> None:
    """Check the references of a job's penalty, or its teacher. Raises InvalidJob as ``check_teachers``."""
    named = [None if model == BASE_REFERENCE else model for model in payload.references()]
    await _check_models(backend, payload, named, "payload.kl.reference")
    if payload.teacher is None:
        return
    if not (await backend.capabilities()).supports_soft_targets:
        raise Unsupported(
            f"payload.teacher: each token is trained towards several targets, and {backend.name!r} has one",
            backend=backend.name,
        )
    if payload.teacher.model != BASE_REFERENCE:
        await _check_model(backend, payload.base_model, payload.teacher.model, "payload.teacher.model")


async def _check_models(
    backend: TrainingBackend, payload: TrainingStep, models: Sequence[TrainedModel | str | None], common: str
) -> None:
    for index, model in enumerate(models):
        if isinstance(model, str):
            own = payload.data.sources and payload.data.sources[index].teacher is not None
            field = f"payload.data.sources[{index}].teacher" if own else common
            await _check_model(backend, payload.base_model, model, field)


async def _check_model(backend: TrainingBackend, trained: str, model: str, field: str) -> None:
    if model in (await backend.capabilities()).models:
        await require_same_tokens(backend, trained, model, field=field, named=model)
    else:
        await (await opened_teacher(backend, trained, model, field=field)).close()


def check_trained_teachers(jobs: Sequence[Job], store: "Store", *, timeout_s: float) -> None:
    """Check the teachers that other jobs train, as far as their services answer now; a worker checks them again.

    Raises:
        InvalidJob: a teacher has other tokens than the base model.
    """
    known = {job.id: job for job in jobs}
    for job in jobs:
        payload = job.parsed_payload
        if not isinstance(payload, DistillationStep | ReinforcementStep):
            continue
        for read in job_reads(payload):
            if read.kind is ReadKind.MODEL and read.field.endswith("teacher"):
                made = (known.get(read.job) or store.get(read.job, job.tenant_id)).parsed_payload
                if isinstance(made, TrainingStep) and made.base_model != payload.base_model:
                    with about(job.id):
                        run_blocking(_check_trained(job.backend, payload, read, made.base_model, timeout_s))


async def _check_trained(
    name: str, payload: TrainingStep, read: JobRead, base_model: str, timeout_s: float
) -> None:
    with suppress(BackendError, CredentialMissing, PluginError, TimeoutError):
        backend = load_backend(name)
        if not isinstance(backend, TrainingBackend):
            return
        try:
            async with asyncio.timeout(timeout_s), backend:
                await require_same_tokens(
                    backend, payload.base_model, base_model, field=f"{read.field}.job", named=read.job
                )
        except InvalidJob:
            raise
        except CallerError:
            # a base model that the backend does not have is refused with the job that trains it
            return
