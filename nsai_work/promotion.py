"""Promote: keep a checkpoint for good, at its service first and then in the store.

In this order, so that nothing is written down as kept that the service will delete.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from crucible.backend import TrainingBackend
from crucible.errors import BackendError, BackendUnavailable, NotFound, RequestTimeout
from crucible.registry import load_backend
from nsai_work.blocking import run_blocking
from nsai_work.training.ledger import CheckpointRecord, CheckpointStatus

if TYPE_CHECKING:
    from nsai_work.store import Store


def promote(store: "Store", job_id: str, name: str, *, timeout_s: float) -> CheckpointRecord:
    """Lift the expiry of a job's checkpoint and keep it, whatever the checkpoint policy says.

    Raises:
        JobNotFound: there is no such job.
        NotFound: the job has no checkpoint of that name, or it is gone at the service.
        InvalidRequest: it is not there any more, or not there yet.
        BackendUnavailable: the service could not be told; nothing was changed.
        BackendError: the service refused, for the credential for instance; nothing was changed.
    """
    record = next((one for one in store.checkpoints(job_id) if one.name == name), None)
    if record is not None and record.status is CheckpointStatus.COMMITTED and record.expires_at is not None:
        _keep(store, job_id, record, timeout_s)
    return store.promote(job_id, name)


def _keep(store: "Store", job_id: str, record: CheckpointRecord, timeout_s: float) -> None:
    (backend,) = (run.ref.backend for run in store.runs(job_id) if run.generation == record.generation)
    paths = [path for path in (record.path, record.sampler_path) if path is not None]
    try:
        run_blocking(_lift_expiry(backend, paths, timeout_s))
    except NotFound as error:
        raise NotFound(
            f"checkpoint {record.name!r} is gone at the service, so it cannot be kept: {error.message}",
            backend=backend,
            details={"name": record.name},
        ) from error
    except (BackendUnavailable, RequestTimeout, TimeoutError) as error:
        said = error.message if isinstance(error, BackendError) else f"no answer in {timeout_s:g} s"
        raise BackendUnavailable(
            f"checkpoint {record.name!r} expires at {record.expires_at:%Y-%m-%d %H:%M} UTC, and the service could "
            f"not be told to keep it: {said}. Nothing was changed; try again",
            backend=backend,
            details={"name": record.name},
        ) from error


async def _lift_expiry(name: str, paths: Sequence[str], timeout_s: float) -> None:
    backend = load_backend(name)
    if not isinstance(backend, TrainingBackend):
        return
    async with asyncio.timeout(timeout_s), backend:
        for path in paths:
            await backend.keep_checkpoint(path)
