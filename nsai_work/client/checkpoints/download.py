"""Downloads of a job's checkpoint as a folder with an adapter, which appears only once it is complete."""

import asyncio
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crucible.adapter_files import read_adapter_config
from crucible.backend import TrainingBackend, no_report
from crucible.errors import InvalidRequest, Unsupported
from crucible.registry import load_backend
from nsai_work.client.checkpoints.job_model import JobModel
from nsai_work.concurrency.coroutine_runner import run_blocking

SPARE_BYTES: Final = 64 << 20
"""The disk space that a download leaves free, in bytes."""


@dataclass(frozen=True, slots=True)
class DownloadResult:
    """A downloaded checkpoint: its folder, and the sizes of its files in bytes, by name."""

    folder: Path
    files: dict[str, int]


def download(
    model: JobModel,
    target: Path,
    *,
    max_bytes: int,
    report: Callable[[int, int | None], None] = no_report,
) -> DownloadResult:
    """Download the adapter of a job's checkpoint into a new folder, and check that it is one.

    ``report(done, total)`` is called with bytes, from any thread.

    Raises:
        InvalidRequest: the folder exists or cannot be made, or the files are larger than ``max_bytes`` or than what
            is free on the disk.
        Unsupported: the backend has no downloads.
        NotFound: the service no longer has the checkpoint.
        BackendError: the service failed, or sent no adapter.
    """
    with new_folder(target) as draft:
        # the archive and its files are there at the same time
        free = max((shutil.disk_usage(draft).free - SPARE_BYTES) // 2, 0)
        if free < min(max_bytes, model.checkpoint.size_bytes or 0):
            raise InvalidRequest.of("DIR", str(target), "there is not enough space on its disk")
        run_blocking(_download(model, draft, min(max_bytes, free), report))
        read_adapter_config(draft, backend=model.backend)
        files = {
            str(file.relative_to(draft)): file.stat().st_size
            for file in sorted(draft.rglob("*"))
            if file.is_file() and not file.is_symlink()
        }
    return DownloadResult(target, files)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Make a folder beside ``target``, and give it that name at the end of the context. After an error it is gone.

    Raises:
        InvalidRequest: the target exists, or cannot be made.
    """
    refuse_existing(target)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.mkdir()
    except OSError as error:
        raise InvalidRequest.of("DIR", str(target), f"cannot make it: {error.strerror}") from error
    try:
        yield draft
        try:
            target.mkdir()  # fails if it has come to exist; the rename would replace an empty folder in silence
            draft.rename(target)
        except OSError as error:
            raise InvalidRequest.of("DIR", str(target), f"cannot make it: {error.strerror}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def refuse_existing(target: Path) -> None:
    """Raise InvalidRequest if a path exists, in any form."""
    if not target.name:
        raise InvalidRequest.of("DIR", str(target), "name a new folder")
    if os.path.lexists(target):
        raise InvalidRequest.of("DIR", str(target), "it exists; name a new folder")


async def _download(
    model: JobModel, folder: Path, max_bytes: int, report: Callable[[int, int | None], None]
) -> None:
    backend = await asyncio.to_thread(load_backend, model.backend)
    if not isinstance(backend, TrainingBackend):
        raise Unsupported(f"{model.backend!r} does not support training, so it has no checkpoints")
    async with backend:
        await backend.download_checkpoint(model.path, folder, max_bytes=max_bytes, report=report)
