"""Deletes what pruned jobs leave elsewhere: before them their checkpoints at the services, and after them the files
that no other job names."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from crucible.backend import TrainingBackend
from crucible.errors import BackendError, BackendUnavailable, CallerError, Unsupported, error_from
from crucible.registry import load_backend
from nsai_work.blobs.access import open_shelf
from nsai_work.concurrency.coroutine_runner import run_blocking
from nsai_work.settings import Settings

if TYPE_CHECKING:
    from nsai_work.store import Store
    from nsai_work.store.maintenance.old_checkpoints import OldCheckpoint

BATCH: Final = 100


def delete_old_checkpoints(store: "Store", before: datetime, *, keep: Collection[str], timeout_s: float) -> int:
    """Delete the checkpoints of jobs that ended before ``before``, except promoted ones and those with a path in
    ``keep``. Returns their number.

    If a service fails, the number so far is in the error's message, and another call continues.

    Raises:
        BackendError, UnknownBackend, InvalidRequest: a backend cannot be used, or its service failed.
    """
    deleted = 0

    def record(checkpoint: "OldCheckpoint") -> None:
        nonlocal deleted
        store.end_checkpoint_deletion(checkpoint)
        deleted += 1

    while batch := store.begin_checkpoint_deletion(before, limit=BATCH, keep=keep):
        for backend in sorted({checkpoint.backend for checkpoint in batch}):
            group = [checkpoint for checkpoint in batch if checkpoint.backend == backend]
            try:
                run_blocking(_delete(backend, group, record, timeout_s))
            except (BackendError, CallerError, TimeoutError) as error:
                if isinstance(error, TimeoutError):
                    error = BackendUnavailable(f"no answer in {timeout_s:g} s", backend=backend)
                message = (
                    f"the checkpoints of old jobs at {backend} were not all deleted: {error.message}. {deleted}"
                    " were deleted, and no job; run the command again to continue"
                )
                raise error_from(error.failure().model_copy(update={"message": message})) from error
    return deleted


def delete_unused_blobs(store: "Store", settings: Settings) -> int:
    """Delete the blobs that no job names and that nobody has touched for a day. Returns their number.

    Raises:
        BlobsElsewhere, BlobsUnavailable: the place of the blobs cannot be used. Another call continues.
    """
    if store.blobs.place() is None:
        return 0
    shelf, deleted = open_shelf(settings, store.blobs), 0
    while keys := store.begin_blob_deletion():
        for key in keys:
            shelf.delete(key)
        deleted += len(keys)
    return deleted


async def _delete(
    name: str, checkpoints: "Sequence[OldCheckpoint]", record: "Callable[[OldCheckpoint], None]", timeout_s: float
) -> None:
    """Delete checkpoints at a backend, one after the other, and call ``record`` with each."""
    backend = load_backend(name)
    if not isinstance(backend, TrainingBackend):
        raise Unsupported(f"{name!r} does not support training, so it has no checkpoints", backend=name)
    async with backend:
        for checkpoint in checkpoints:
            async with asyncio.timeout(timeout_s):
                for path in checkpoint.paths:
                    await backend.delete_checkpoint(path)
            await asyncio.to_thread(record, checkpoint)
