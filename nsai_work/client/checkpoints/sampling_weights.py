"""Sampling weights of a checkpoint: those that a job has saved, or ones saved now from its training state."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from crucible.backend import TrainingBackend
from crucible.errors import CallerError, CrucibleError, InvalidRequest, NoCheckpoint
from crucible.training import IntentKind
from nsai_work.client.checkpoints.job_model import JobModel

if TYPE_CHECKING:
    from nsai_work.store import Store


@dataclass(frozen=True, slots=True)
class SamplingWeights:
    """The path to sample a checkpoint from. ``saved``: it was saved now, and recorded with the checkpoint."""

    path: str
    saved: bool = False


async def sampling_weights(store: "Store", backend: TrainingBackend, model: JobModel) -> SamplingWeights:
    """Return the sampling weights of a job's checkpoint.

    If there is only a training state and the service does not sample from it, a new run loads the state and saves
    it for sampling. The path is recorded with the checkpoint: it is used again, and deleted with it.

    Raises:
        InvalidRequest: the service cannot load the state or save it for sampling, or the checkpoint was deleted
            meanwhile.
        CrucibleError: the service or the store failed.
    """
    if model.checkpoint.sampler_path is not None:
        return SamplingWeights(model.checkpoint.sampler_path)
    with suppress(CallerError):
        await (await backend.sampler(model.path)).close()
        return SamplingWeights(model.path)
    try:
        saved = await _save(backend, model, await asyncio.to_thread(store.now))
    except (CallerError, NoCheckpoint) as error:
        raise _refused(model, error.message) from error
    try:
        path = await asyncio.to_thread(store.keep_sampler_path, model.job_id, model.checkpoint.name, saved)
    except CallerError as error:
        await _delete(backend, saved)
        raise _refused(model, error.message) from error
    if path != saved:  # another process was faster
        await _delete(backend, saved)
    return SamplingWeights(path, saved=path == saved)


async def _save(backend: TrainingBackend, model: JobModel, now: datetime) -> str:
    # most commands need nothing of the training
    from nsai_work.training.operations import sampler_name, save_id
    from nsai_work.training.restart.saved_state import load_state

    step, expires_at, ttl_s = model.checkpoint.step, model.checkpoint.expires_at, None
    if expires_at is not None:
        ttl_s = max(1, int((expires_at - now).total_seconds()))
    run = await load_state(backend, model.spec, model.path, field="model")
    try:
        name = sampler_name(f"{save_id(model.job_id)}-of-{step}", step)
        saving = await run.send(run.prepare_save(name, step=step, kind=IntentKind.SAVE_SAMPLER, ttl_s=ttl_s))
        return (await saving.result()).path
    finally:
        await run.close(unload=True)


async def _delete(backend: TrainingBackend, path: str) -> None:
    with suppress(CrucibleError):
        await backend.delete_checkpoint(path)


def _refused(model: JobModel, reason: str) -> InvalidRequest:
    checkpoint = model.checkpoint
    return InvalidRequest.of(
        "checkpoint",
        checkpoint.name,
        f"job {model.job_id} has only a training state of step {checkpoint.step}, from which {model.backend!r} does"
        f" not sample, and it cannot be saved for sampling: {reason}",
        backend=model.backend,
    )
