"""Ships the input files of jobs: at submit, each goes into the blob store, once for each content."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from nsai_work.blobs.access import open_shelf
from nsai_work.blobs.place import BlobGone
from nsai_work.blobs.shelf import ContentChanged, Shelf, always_pruned
from nsai_work.errors import InvalidJob
from nsai_work.files.input_files import invalid_file, open_input
from nsai_work.job import Job
from nsai_work.payloads.files import InputFile, input_files
from nsai_work.settings import Settings

if TYPE_CHECKING:
    from nsai_work.store import Store, Submitted

TRIES: Final = 8


def submit_with_files(store: "Store", jobs: Sequence[Job], settings: Settings) -> "list[Submitted]":
    """Write the files of jobs into the blob store, then store the jobs: all of them or none. The files are pinned.

    Raises:
        InvalidJob: a file is too large for the place of the blobs, or has changed since it was pinned.
        BlobsElsewhere, BlobsUnavailable: the place of the blobs cannot be used; or a blob was pruned each time.
        StoreUnavailable, StoreFull: the database failed.
    """
    files = {job.id: shipped for job in jobs if (shipped := _shipped(job))}
    if not files:
        return store.submit(jobs)
    shelf = open_shelf(settings, store.blobs)
    for tries in range(1, TRIES + 1):
        keys = {file.source.sha256: "" for of_job in files.values() for file in of_job}
        for of_job in files.values():
            for file in of_job:
                keys[file.source.sha256] = keys[file.source.sha256] or _key(shelf, file)
        try:
            return store.submit(
                jobs,
                {job_id: [keys[file.source.sha256] for file in of_job] for job_id, of_job in files.items()},
            )
        except BlobGone:
            # pruned since it was touched, as after a pause of more than a day
            if tries == TRIES:
                raise always_pruned(shelf.place.name, TRIES) from None
    raise AssertionError("unreachable")


def _shipped(job: Job) -> list[InputFile]:
    return [file for file in input_files(job.parsed_payload) if file.source.ship == "auto"]


def _key(shelf: Shelf, file: InputFile) -> str:
    sha256 = str(file.source.sha256)
    return shelf.find(sha256) or _write(shelf, file, sha256)


def _write(shelf: Shelf, file: InputFile, sha256: str) -> str:
    path = Path(file.source.path)
    with open_input(file.field, path) as opened:
        _require_size(shelf, file, opened)
        try:
            return shelf.write(opened, sha256)
        except ContentChanged:
            raise invalid_file(
                file.field, path, "changed while it was read", "submit the job when the file is complete"
            ) from None


def _require_size(shelf: Shelf, file: InputFile, opened: BinaryIO) -> None:
    size = os.fstat(opened.fileno()).st_size
    if shelf.limit is not None and size > shelf.limit:
        raise InvalidJob(
            f"{file.field}: {file.source.path}: has {size / 2**20:,.1f} MiB, and {shelf.place.name} takes at most "
            f"{shelf.limit // 2**20} (NSAI_WORK_BLOBS_MAX_MIB); set NSAI_WORK_BLOBS_URL to a place for large "
            f"files, or set {file.field.removesuffix('path')}ship to false, if the workers can read this path",
            details={"field": file.field, "path": file.source.path, "size": size, "limit": shelf.limit},
        )
