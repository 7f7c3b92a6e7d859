"""Promote: keep a checkpoint for good, at its service first and then in the store.

In this order, so that nothing is written down as kept that the service will delete.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from crucible.backend import TrainingBackend
from crucible.errors import (
    BackendError,
    BackendUnavailable,
    CrucibleError,
    NotFound,
    Unsupported,
    error_from,
)
from crucible.registry import load_backend
from nsai_work.blocking import run_blocking
from nsai_work.journal import CheckpointRecord
from nsai_work.payloads import TrainingStep

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
    record = store.promotable(job_id, name)
    if _may_expire(store, job_id, record):
        _keep(store, job_id, record, timeout_s)
    return store.promote(job_id, name)


def _may_expire(store: "Store", job_id: str, record: CheckpointRecord) -> bool:
    if record.expires_at is not None:
        return True
    if record.final:
        return False
    # one that was promoted while only the store was told has no time in its row, and expires all the same
    payload = store.get(job_id).parsed_payload
    return isinstance(payload, TrainingStep) and payload.checkpoint_policy.ttl is not None


def _keep(store: "Store", job_id: str, record: CheckpointRecord, timeout_s: float) -> None:
    (backend,) = (run.ref.backend for run in store.runs(job_id) if run.generation == record.generation)
    paths = [path for path in (record.path, record.sampler_path) if path is not None]
    kept: list[str] = []
    try:
        run_blocking(_lift_expiry(backend, paths, kept, timeout_s))
    except NotFound as error:
        raise NotFound(
            f"checkpoint {record.name!r} is gone at the service, so it cannot be kept: {error.message}. "
            f"{_changed(kept)}",
            backend=backend,
            details={"name": record.name},
        ) from error
    except (BackendError, TimeoutError) as error:
        raise _untold(error, backend, record, kept, timeout_s) from error


async def _lift_expiry(name: str, paths: Sequence[str], kept: list[str], timeout_s: float) -> None:
    """``kept`` tells how far it came."""
    backend = load_backend(name)
    if not isinstance(backend, TrainingBackend):
        raise Unsupported(f"{name!r} does not train, so it holds no checkpoints", backend=name)
    async with asyncio.timeout(timeout_s), backend:
        for path in paths:
            await backend.keep_checkpoint(path)
            kept.append(path)


def _untold(
    error: BackendError | TimeoutError,
    backend: str,
    record: CheckpointRecord,
    kept: Sequence[str],
    timeout_s: float,
) -> CrucibleError:
    """An error of the same kind that says what it means for the checkpoint, and what to do."""
    if isinstance(error, TimeoutError):
        error = BackendUnavailable(f"no answer in {timeout_s:g} s", backend=backend)
    expires = "expires" if record.expires_at is None else f"expires at {record.expires_at:%Y-%m-%d %H:%M} UTC"
    message = (
        f"checkpoint {record.name!r} {expires}, and the service could not be told to keep it: {error.message}. "
        f"{_changed(kept)}; try again"
    )
    failure = error.failure()
    details = {**failure.details, "name": record.name}
    return error_from(failure.model_copy(update={"message": message, "details": details}))


def _changed(kept: Sequence[str]) -> str:
    return f"{', '.join(kept)} no longer expires; nothing else was changed" if kept else "Nothing was changed"
