"""Promotes checkpoints: removes the expiry at the service, then marks the checkpoint in the store.

In this order, the store never records a checkpoint as permanent that the service will delete.
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
from nsai_work.concurrency.coroutine_runner import run_blocking
from nsai_work.errors import JobNotFound
from nsai_work.journal import CheckpointRecord
from nsai_work.payloads import TrainingStep

if TYPE_CHECKING:
    from nsai_work.store import Store


def promote(store: "Store", job_id: str, name: str, *, timeout_s: float) -> CheckpointRecord:
    """Keep a checkpoint of a job permanently, regardless of the checkpoint policy.

    Raises:
        JobNotFound: the job does not exist.
        NotFound: the job has no checkpoint of this name, or the service no longer has it.
        InvalidRequest: the checkpoint is not committed, or was deleted.
        BackendUnavailable: the service did not answer; the message says what was changed.
        BackendError: the service rejected the request; the message says what was changed.
    """
    record = _promotable(store, job_id, name)
    if _may_expire(store, job_id, record):
        _remove_expiry(store, job_id, record, timeout_s)
    return store.promote(job_id, name)


def _promotable(store: "Store", job_id: str, name: str) -> CheckpointRecord:
    try:
        return store.promotable(job_id, name)
    except JobNotFound:
        raise
    except NotFound:
        # the journal does not know the job's id
        raise NotFound(
            f"job {job_id} has no checkpoint {name!r}; nsai-work checkpoints {job_id} lists its checkpoints",
            details={"job_id": job_id, "name": name},
        ) from None


def _may_expire(store: "Store", job_id: str, record: CheckpointRecord) -> bool:
    if record.expires_at is not None:
        return True
    if record.final:
        return False
    # earlier versions promoted in the store only: such a record has no expiry, but the service still has one
    payload = store.get(job_id).parsed_payload
    return isinstance(payload, TrainingStep) and payload.checkpoint_policy.ttl is not None


def _remove_expiry(store: "Store", job_id: str, record: CheckpointRecord, timeout_s: float) -> None:
    (backend,) = (run.ref.backend for run in store.runs(job_id) if run.generation == record.generation)
    paths = [path for path in (record.path, record.sampler_path) if path is not None]
    done: list[str] = []
    try:
        run_blocking(_keep_paths(backend, paths, done, timeout_s))
    except NotFound as error:
        raise NotFound(
            f"checkpoint {record.name!r} no longer exists at the service and cannot be kept: {error.message}. "
            f"{_changes(done)}",
            backend=backend,
            details={"name": record.name},
        ) from error
    except (BackendError, TimeoutError) as error:
        raise _not_kept(error, backend, record, done, timeout_s) from error


async def _keep_paths(name: str, paths: Sequence[str], done: list[str], timeout_s: float) -> None:
    """Remove the expiry of each path at the service, and append the path to ``done``."""
    backend = load_backend(name)
    if not isinstance(backend, TrainingBackend):
        raise Unsupported(f"{name!r} does not support training, so it has no checkpoints", backend=name)
    async with asyncio.timeout(timeout_s), backend:
        for path in paths:
            await backend.keep_checkpoint(path)
            done.append(path)


def _not_kept(
    error: BackendError | TimeoutError,
    backend: str,
    record: CheckpointRecord,
    done: Sequence[str],
    timeout_s: float,
) -> CrucibleError:
    """Build an error of the same class whose message says what it means for the checkpoint."""
    if isinstance(error, TimeoutError):
        error = BackendUnavailable(f"no answer in {timeout_s:g} s", backend=backend)
    expires = "expires" if record.expires_at is None else f"expires at {record.expires_at:%Y-%m-%d %H:%M} UTC"
    message = (
        f"checkpoint {record.name!r} {expires}, and the service could not remove its expiry: "
        f"{error.message}. {_changes(done)}; try again"
    )
    failure = error.failure()
    details = {**failure.details, "name": record.name}
    return error_from(failure.model_copy(update={"message": message, "details": details}))


def _changes(done: Sequence[str]) -> str:
    return f"{', '.join(done)} no longer expires; nothing else was changed" if done else "Nothing was changed"
