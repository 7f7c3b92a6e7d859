"""The input files of a claimed job on this machine: read from the blob store, as far as they were shipped."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from crucible.errors import CrucibleError
from nsai_work.blobs.access import open_shelf
from nsai_work.blobs.cache import BlobCache
from nsai_work.errors import BlobsUnavailable
from nsai_work.payload_files import input_files, with_paths
from nsai_work.payloads import DataFile, DataSource, Payload
from nsai_work.settings import Settings
from nsai_work.store import Store
from nsai_work.store.records import Claim

CACHE_FOLDER: Final = "blobs"


@dataclass(frozen=True, slots=True)
class JobFiles:
    """The files of the jobs of a worker."""

    store: Store
    settings: Settings

    @asynccontextmanager
    async def local(self, claim: Claim, payload: Payload) -> AsyncIterator[Payload]:
        """The payload with paths of this machine. Its files stay while the context is open.

        Raises:
            BlobsElsewhere, BlobsUnavailable, BlobDamaged: a shipped file cannot be read.
            StoreUnavailable: the database does not answer.
        """
        if not input_files(payload):
            yield payload
            return
        with ExitStack() as held:
            local = await asyncio.to_thread(self.localized, claim.job_id, payload, held)
            try:
                yield local
            except CrucibleError as error:
                _restore_paths(error, payload, local)
                raise

    def localized(self, job_id: str, payload: Payload, held: ExitStack) -> Payload:
        """The payload of a job with paths of this machine; blocking. The files stay until ``held`` is closed.

        Raises as ``local``.
        """
        blobs = {blob.sha256: blob for blob in self.store.blobs.of_job(job_id)}
        if not blobs:
            return payload
        shelf, cache = open_shelf(self.settings, self.store.blobs), self.cache()

        def path_of(source: DataFile | DataSource) -> str:
            blob = blobs.get(source.sha256 or "")
            if blob is None:
                return source.path
            file = cache.held(blob.sha256, Path(source.path).name, partial(shelf.read, blob))
            return str(held.enter_context(file))

        try:
            return with_paths(payload, path_of)
        except OSError as error:
            raise BlobsUnavailable(
                f"files of the job cannot be kept in {cache.folder}: {error.strerror or error}; make room there",
                details={"place": str(cache.folder)},
            ) from error

    def cache(self) -> BlobCache:
        """The files on this machine, by the digest of their content."""
        return BlobCache(self.settings.make_home() / CACHE_FOLDER, self.settings.blobs_cache_mib * 1024 * 1024)


def _restore_paths(error: CrucibleError, payload: Payload, local: Payload) -> None:
    """Name the files in an error as the job does: a path of the cache means nothing to its reader."""
    for given, cached in zip(input_files(payload), input_files(local), strict=True):
        if given.source.path != cached.source.path:
            error.message = error.message.replace(cached.source.path, given.source.path)
            if error.details.get("path") == cached.source.path:
                error.details["path"] = given.source.path
    error.args = (error.message,)
